#include "kernels/core/batch.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/expression.h"

namespace attnd {
namespace {

// What an expression of the schema sees of a bound call.
class CallEnvironment final : public Environment {
 public:
  explicit CallEnvironment(const BoundCall& call) : call_(call) {}
  std::optional<AttrValue> Lookup(absl::string_view name) const override {
    if (const AttrValue* value = call_.attributes().Find(name)) return *value;
    if (const int64_t* size = call_.dims().Find(name)) return AttrValue(*size);
    return std::nullopt;
  }
  bool Has(absl::string_view name) const override {
    return call_.has(name) || call_.has_attribute(name);
  }

 private:
  const BoundCall& call_;
};

// Along which axis the calls' versions of a port are laid together.
struct Layout {
  bool packs;  // Tokens end to end, instead of batch rows on top of one another.
  // A symbol beside B and M whose axis is one of batch rows; empty: none.
  std::string per_row = {};

  static constexpr int kShared = -1;   // No axis of the batch: all must hold the same bytes.
  static constexpr int kNowhere = -2;  // The port has no place in such a call.

  int AxisOf(const Port& port, int alternative) const {
    const int batch = port.AxisOf("B", alternative);
    if (!packs) {
      const bool rows = batch == 0 || port.AxisOf("M", alternative) == 0 ||
                        (!per_row.empty() && port.AxisOf(per_row, alternative) == 0);
      if (rows) return 0;
      return batch > 0 ? kNowhere : kShared;  // Rows of the batch lie apart.
    }
    for (const absl::string_view tokens : {"T", "S"}) {
      const int axis = port.AxisOf(tokens, alternative);
      if (axis >= 0) return batch == 0 && axis == 1 ? 1 : kNowhere;
    }
    if (batch >= 0) return kNowhere;  // A batch row without tokens.
    return port.AxisOf("M", alternative) == 0 ? 0 : kShared;
  }
};

// Calls that could have been given as packed sequences, queries and keys alike, are packed.
Layout LayoutOf(const BoundCall& call) {
  const OpSpec& spec = call.spec();
  if (!spec.packs() || !spec.text().packed_by_sequence) {
    const int64_t* rows = call.dims().Find(spec.text().per_row);
    const bool every = rows != nullptr && !call.packed() && *rows == call.dim("B");
    return {.packs = false, .per_row = every ? spec.text().per_row : ""};
  }
  const std::optional<Expression>& condition = spec.FindInput("cu_seqlens")->condition;
  if (condition.has_value()) {
    const absl::StatusOr<bool> holds = condition->EvaluateBool(CallEnvironment(call));
    if (!holds.ok() || !*holds) return {.packs = false};
  }
  const int64_t* keys = call.dims().Find("S");
  return {.packs = keys == nullptr || *keys == call.dim("T")};
}

// Whether a size is computed from others and shapes no output, so that calls may differ in it.
bool FollowsTokens(const BoundCall& call, absl::string_view symbol) {
  const OpSpec& spec = call.spec();
  const bool derived = std::any_of(spec.derived().begin(), spec.derived().end(),
                                   [symbol](const Derived& d) { return d.symbol == symbol; });
  if (!derived) return false;
  for (const BoundCall::OutputSpec& output : call.outputs()) {
    if (spec.FindOutput(output.name)->AxisOf(symbol) >= 0) return false;
  }
  return true;
}

// A dense call [B,T,..] as the packed row [1,B*T,..] that it is in memory.
Tensor AsRow(const Tensor& tensor) {
  Dims shape(tensor.shape().begin() + 1, tensor.shape().end());
  shape[0] *= tensor.dim(0);
  shape.insert(shape.begin(), 1);
  return tensor.Reshape(std::move(shape));
}

// FNV-1a, for keys only: equality of bytes is checked where it matters.
uint64_t HashBytes(const Tensor& tensor) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto* bytes = tensor.data<unsigned char>();
  for (int64_t i = 0; i < tensor.byte_size(); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

bool SameBytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
}

// Depends on the call's form alone.
BatchTraits MakeTraits(const BoundCall& call) {
  const OpSpec& spec = call.spec();
  const Layout layout = LayoutOf(call);
  BatchTraits traits{.packs = layout.packs, .per_row = !layout.per_row.empty()};
  if (call.packed() && !layout.packs) return traits;
  for (const BoundCall::OutputSpec& output : call.outputs()) {
    if (layout.AxisOf(*spec.FindOutput(output.name), 0) < 0) return traits;
  }
  traits.key = absl::StrCat(spec.id(), "|", Name(call.dtype()), layout.packs ? "|packed" : "",
                            traits.per_row ? "|per row" : "");
  for (const auto& [symbol, size] : call.dims()) {
    if (symbol == "B" || symbol == "M" || symbol == layout.per_row) continue;
    if (layout.packs && (symbol == "T" || symbol == "S" || FollowsTokens(call, symbol))) continue;
    absl::StrAppend(&traits.key, "|", symbol, "=", size);
  }
  // In the schema's order, whatever the caller's was.
  for (const AttrSpec& attribute : spec.attributes()) {
    const AttrValue* value = call.attributes().Find(attribute.name);
    if (value != nullptr) {
      absl::StrAppend(&traits.key, "|", attribute.name, "=", ToString(*value));
    }
  }
  for (const auto& [name, tensor] : call.inputs()) {
    if (name == "cu_seqlens" && spec.packs()) continue;
    const int alternative = call.alternative(name);
    const int axis = layout.AxisOf(*spec.FindInput(name), alternative);
    if (axis == Layout::kNowhere) return traits;
    absl::StrAppend(&traits.key, "|", name, ":", alternative);
    if (axis != Layout::kShared) continue;
    // As many rows as the batch: perhaps one for each of it under another name, which a larger
    // batch would break.
    if (tensor.rank() > 0 && call.dims().contains("B") && tensor.dim(0) == call.dim("B") &&
        tensor.dim(0) > 1) {
      return traits;
    }
    traits.shared.push_back(name);
  }
  traits.possible = true;
  return traits;
}

const BatchTraits& TraitsOf(const BoundCall& call) {
  return call.form().batch.Get([&] { return MakeTraits(call); });
}

// That of LayoutOf, from what is kept of it.
Layout KeptLayout(const BoundCall& call) {
  const BatchTraits& traits = TraitsOf(call);
  return {.packs = traits.packs, .per_row = traits.per_row ? call.spec().text().per_row : ""};
}

}  // namespace

std::string BatchKey(const BoundCall& call, absl::string_view kernel) {
  const BatchTraits& traits = TraitsOf(call);
  if (!traits.possible) return "";
  std::string key = absl::StrCat(traits.key, "|", kernel);
  for (const std::string& name : traits.shared) {
    constexpr int64_t kMostHashed = int64_t{1} << 20;
    const Tensor& tensor = call.input(name);
    if (tensor.byte_size() > kMostHashed) return "";
    absl::StrAppend(&key, "#", HashBytes(tensor));
  }
  return key;
}

absl::StatusOr<BoundCall> Pack(absl::Span<const BoundCall* const> calls) {
  if (calls.empty()) return absl::InvalidArgumentError("nothing to pack");
  const BoundCall& first = *calls[0];
  const OpSpec& spec = first.spec();
  const Layout layout = KeptLayout(first);
  CallRequest packed{spec.id(), {}, first.attributes(), ""};
  for (const auto& [name, example] : first.inputs()) {
    if (name == "cu_seqlens" && spec.packs()) continue;
    const int axis = layout.AxisOf(*spec.FindInput(name), first.alternative(name));
    if (axis < 0) {
      for (const BoundCall* call : calls) {
        if (!SameBytes(call->input(name), example)) {
          return absl::FailedPreconditionError(
              absl::StrCat(spec.id(), ": ", name, " differs within a batch"));
        }
      }
      packed.inputs.Set(name, example);
      continue;
    }
    std::vector<Tensor> parts;
    parts.reserve(calls.size());
    int64_t length = 0;
    for (const BoundCall* call : calls) {
      parts.push_back(axis == 1 ? AsRow(call->input(name)) : call->input(name));
      length += parts.back().dim(axis);
    }
    Dims shape = parts[0].shape();
    shape[axis] = length;
    absl::StatusOr<Tensor> whole = AllocateHost(example.dtype(), std::move(shape));
    if (!whole.ok()) return whole.status();
    // Both axes are outermost in memory: parts follow one another.
    char* at = whole->data<char>();
    for (const Tensor& part : parts) {
      std::memcpy(at, part.raw(), static_cast<size_t>(part.byte_size()));
      at += part.byte_size();
    }
    packed.inputs.Set(name, *std::move(whole));
  }
  if (layout.packs) {
    std::vector<int32_t> offsets = {0};
    int64_t total = 0;
    for (const BoundCall* call : calls) {
      for (const Sequence& sequence : call->sequences()) {
        total += sequence.length;
        if (total > INT32_MAX)
          return absl::FailedPreconditionError(
              absl::StrCat(spec.id(), ": a batch of over 2^31 tokens"));
        offsets.push_back(static_cast<int32_t>(total));
      }
    }
    packed.inputs.Set("cu_seqlens",
                      HostTensor<int32_t>({static_cast<int64_t>(offsets.size())}, offsets));
  }
  return Bind(spec, packed);
}

absl::StatusOr<std::vector<NamedTensors>> Unpack(absl::Span<const BoundCall* const> calls,
                                                 const NamedTensors& packed_outputs) {
  std::vector<NamedTensors> results(calls.size());
  const OpSpec& spec = calls[0]->spec();
  const Layout layout = KeptLayout(*calls[0]);
  for (const auto& [name, whole] : packed_outputs) {
    const int axis = layout.AxisOf(*spec.FindOutput(name), 0);
    int64_t at = 0;
    for (size_t i = 0; i < calls.size(); ++i) {
      const BoundCall::OutputSpec* wanted = calls[i]->FindOutput(name);
      if (wanted == nullptr || axis < 0)
        return absl::InternalError(absl::StrCat("no output ", name, " to unpack"));
      const int64_t length = axis == 1 ? wanted->shape[0] * wanted->shape[1] : wanted->shape[0];
      if (at + length > whole.dim(axis))
        return absl::InternalError(absl::StrCat("output ", name, " is too short to unpack"));
      const Tensor part = whole.Slice(axis, at, length);
      at += length;
      // Contiguous: nothing lies outside the cut axis but an axis of size 1.
      results[i].Set(name,
                     Tensor(part.raw(), part.dtype(), wanted->shape, Device::kCpu, part.owner()));
    }
  }
  return results;
}

}  // namespace attnd
