#include "kernels/core/random_call.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/primitives/cpu/primitives_cpu.h"

namespace attnd {
namespace {

constexpr int kAttempts = 800;

// SplitMix64 (Steele, Lea, Flood 2014): one step, well mixed even from neighbouring seeds.
uint64_t Mix(uint64_t& state) {
  state += 0x9e3779b97f4a7c15u;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

bool Contains(const std::vector<std::string>& names, absl::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Sizes and attributes chosen so far.
class Draft final : public Environment {
 public:
  explicit Draft(RandomSource& source) : source_(source) {}
  std::optional<AttrValue> Lookup(absl::string_view name) const override {
    if (const int64_t* size = source_.dims().Find(name)) return AttrValue(*size);
    if (const AttrValue* value = source_.request().attributes.Find(name)) return *value;
    const AttrSpec* attribute = source_.spec().FindAttribute(name);
    if (attribute == nullptr) return std::nullopt;
    if (attribute->default_list) return attribute->default_list;
    if (!attribute->default_value) return std::nullopt;
    absl::StatusOr<AttrValue> value = attribute->default_value->Evaluate(*this);
    if (!value.ok()) return std::nullopt;
    return *std::move(value);
  }
  bool Has(absl::string_view name) const override {
    return given_.contains(name) || source_.request().inputs.contains(name) ||
           source_.request().attributes.contains(name) || Lookup(name).has_value();
  }
  void Give(absl::string_view name) { given_.Set(name, true); }

 private:
  RandomSource& source_;
  Named<bool> given_;
};

bool Applies(const Port& port, const Draft& draft) {
  if (!port.condition) return true;
  const absl::StatusOr<bool> applies = port.condition->EvaluateBool(draft);
  return applies.ok() && *applies;
}

// A size for a symbol that nothing else decides.
int64_t DrawSize(absl::string_view symbol, RandomSource& source) {
  if (symbol == "B") return source.Uniform(1, 3);
  if (symbol == "T" || symbol == "N") return source.Uniform(1, 70);
  if (symbol == "S") {
    const int64_t* tokens = source.dims().Find("T");
    return tokens != nullptr && source.Uniform(0, 1) == 0 ? *tokens : source.Uniform(1, 70);
  }
  if (symbol == "K" || symbol == "V" || symbol == "D") {
    return source.Uniform(0, 2) == 0 ? 8 * source.Uniform(1, 6) : source.Uniform(1, 40);
  }
  if (symbol[0] == 'H') {
    constexpr int64_t kHeads[] = {1, 2, 3, 4, 6};
    return kHeads[source.Uniform(0, 4)];
  }
  return source.Uniform(1, 4);
}

void DrawAttributes(RandomSource& source, const Draft& draft) {
  for (const AttrSpec& attribute : source.spec().attributes()) {
    if (source.request().attributes.contains(attribute.name)) continue;
    if (attribute.optional || source.Uniform(0, 1) == 0) continue;
    if (!attribute.choices.empty()) {
      const auto last = static_cast<int64_t>(attribute.choices.size()) - 1;
      source.Attribute(attribute.name,
                       attribute.choices[static_cast<size_t>(source.Uniform(0, last))]);
    } else if (attribute.type == AttrType::kBool) {
      source.Attribute(attribute.name, source.Uniform(0, 1) == 1);
    } else if (attribute.type == AttrType::kFloat && attribute.default_value &&
               attribute.name != "scale") {
      const absl::StatusOr<AttrValue> value = attribute.default_value->Evaluate(draft);
      // Half or twice the default: in range for every bound by zero.
      if (value.ok() && std::holds_alternative<double>(*value)) {
        source.Attribute(attribute.name,
                         std::get<double>(*value) * (source.Uniform(0, 1) == 0 ? 0.5 : 2));
      }
    } else if (attribute.name == "scale") {
      source.Attribute(attribute.name, 0.25 + 0.5 * source.Uniform01());
    }
  }
}

double Draw(absl::string_view distribution, RandomSource& source) {
  if (distribution == "logdecay") return -std::log1p(std::exp(-(2 + source.Gaussian())));
  if (distribution == "probability") return source.Uniform01();
  if (distribution == "positive") return 0.1 + 0.9 * source.Uniform01();
  if (distribution == "small") return 0.1 * source.Gaussian();
  if (distribution == "slopes") return -0.01 - 0.5 * source.Uniform01();
  return source.Gaussian();
}

absl::StatusOr<Tensor> DrawTensor(const Port& port, DType dtype, const Dims& shape,
                                  RandomSource& source) {
  if (port.type == PortType::kBool) {
    absl::StatusOr<Tensor> bits = AllocateHost(DType::kBool, shape);
    if (!bits.ok()) return bits;
    // Mostly true: masks that hide nearly everything test nothing else.
    for (int64_t i = 0; i < bits->num_elements(); ++i)
      bits->data<bool>()[i] = source.Uniform(0, 3) != 0;
    return bits;
  }
  if (port.type == PortType::kInt || port.type == PortType::kInt32 ||
      port.type == PortType::kInt64) {
    absl::StatusOr<Tensor> zeros =
        AllocateHost(port.type == PortType::kInt32 ? DType::kInt32 : DType::kInt64, shape);
    if (zeros.ok()) cpu::Fill(0, *zeros);
    return zeros;
  }
  absl::StatusOr<Tensor> wide = AllocateHost(DType::kFloat64, shape);
  if (!wide.ok()) return wide;
  double* values = wide->data<double>();
  const int64_t count = wide->num_elements();
  for (int64_t i = 0; i < count; ++i) values[i] = Draw(port.distribution, source);
  if (port.distribution == "unit" && count > 0) {
    const int64_t width = shape.back();
    for (int64_t row = 0; row < count; row += width) {
      double squares = 1e-12;
      for (int64_t i = 0; i < width; ++i) squares += values[row + i] * values[row + i];
      for (int64_t i = 0; i < width; ++i) values[row + i] /= std::sqrt(squares);
    }
  }
  const bool gate = port.type == PortType::kFloat32 && dtype != DType::kFloat64;
  absl::StatusOr<Tensor> out = AllocateHost(gate ? DType::kFloat32 : dtype, shape);
  if (out.ok()) cpu::Copy(*wide, *out);
  return out;
}

// cu_seqlens with one to four sequences, an empty one now and then.
Tensor DrawOffsets(int64_t tokens, int64_t sequences, RandomSource& source) {
  std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens)};
  while (static_cast<int64_t>(offsets.size()) < sequences + 1) {
    offsets.push_back(static_cast<int32_t>(source.Uniform(0, tokens)));
  }
  std::sort(offsets.begin(), offsets.end());
  return HostTensor<int32_t>({static_cast<int64_t>(offsets.size())}, offsets);
}

// One try: sizes, attributes and the set of inputs. Returns the rule or size that failed, empty if
// all hold.
class Attempt {
 public:
  Attempt(const Operator& op, RandomSource& source)
      : op_(op), spec_(op.spec), source_(source), draft_(source) {}

  absl::StatusOr<CallRequest> Run() {
    source_.request().op = spec_.id();
    for (const auto& [name, value] : source_.options().attributes) {
      source_.request().attributes.Set(name, value);
    }
    for (const auto& [symbol, size] : source_.options().dims) source_.dims().Set(symbol, size);
    if (source_.options().packed) source_.dims().Set("B", 1);
    if (source_.options().random_attributes) DrawAttributes(source_, draft_);
    if (op_.random) op_.random(source_);
    ChooseInputs();
    if (absl::Status s = ChooseSizes(); !s.ok()) return s;
    for (const Rule& rule : spec_.rules()) {
      const absl::StatusOr<bool> holds = rule.condition.EvaluateBool(draft_);
      if (!holds.ok() || !*holds) return Unsatisfied(rule.condition.text());
    }
    if (absl::Status s = DrawInputs(); !s.ok()) return s;
    return std::move(source_.request());
  }

 private:
  static absl::Status Unsatisfied(absl::string_view what) {
    return absl::FailedPreconditionError(absl::StrCat("could not satisfy ", what));
  }

  void ChooseInputs() {
    for (const Port& port : spec_.inputs()) {
      bool given = source_.request().inputs.contains(port.name);
      if (!given && Applies(port, draft_)) {
        given = !port.optional || source_.Wants(port.name);
        if (port.name == "cu_seqlens" && spec_.packs()) given = source_.options().packed;
      }
      if (!given) continue;
      draft_.Give(port.name);
      chosen_.push_back(&port);
      const auto last = static_cast<int64_t>(port.shapes.size()) - 1;
      alternatives_.push_back(static_cast<size_t>(source_.Uniform(0, last)));
      // A tensor from the hook has its shape already.
      if (const Tensor* fixed = source_.request().inputs.Find(port.name)) Adopt(port, *fixed);
    }
  }

  void Adopt(const Port& port, const Tensor& tensor) {
    for (const auto& shape : port.shapes) {
      if (shape.size() != static_cast<size_t>(tensor.rank())) continue;
      for (size_t axis = 0; axis < shape.size(); ++axis) {
        const auto linear = shape[axis].AsLinear();
        if (linear && spec_.FindAttribute(linear->symbol) == nullptr) {
          source_.dims().Set(linear->symbol, tensor.shape()[axis] - linear->offset);
        }
      }
      return;
    }
  }

  bool IsDerived(absl::string_view symbol) const {
    return std::any_of(spec_.derived().begin(), spec_.derived().end(),
                       [symbol](const Derived& derived) { return derived.symbol == symbol; });
  }

  absl::Status ChooseSizes() {
    // M follows B in a dense call and is drawn in a packed one.
    for (size_t i = 0; i < chosen_.size(); ++i) {
      for (const Expression& size : chosen_[i]->shapes[alternatives_[i]]) {
        for (const std::string& symbol : size.Names()) {
          if (source_.dims().contains(symbol) || IsDerived(symbol) || symbol == "M" ||
              spec_.FindAttribute(symbol) != nullptr) {
            continue;
          }
          source_.dims().Set(symbol, DrawSize(symbol, source_));
        }
      }
    }
    const int64_t* batch = source_.dims().Find("B");
    if (!source_.dims().contains("M")) {
      source_.dims().Set("M", source_.options().packed ? source_.Uniform(1, 4)
                              : batch != nullptr       ? *batch
                                                       : 1);
    }
    // Sequences are cut later, none longer than this.
    if (const int64_t* tokens = source_.dims().Find("T");
        spec_.reads_longest() && tokens != nullptr)
      source_.dims().Set("LT", *tokens);
    for (const Derived& derived : spec_.derived()) {
      const absl::StatusOr<int64_t> size = derived.value.EvaluateInt(draft_);
      if (size.ok()) source_.dims().Set(derived.symbol, *size);
    }
    return absl::OkStatus();
  }

  // Shape of a chosen input.
  absl::StatusOr<Dims> ShapeOf(size_t i) {
    Dims shape;
    for (const Expression& size : chosen_[i]->shapes[alternatives_[i]]) {
      const absl::StatusOr<int64_t> value = size.EvaluateInt(draft_);
      if (!value.ok() || *value < 0) return Unsatisfied(size.text());
      shape.push_back(*value);
    }
    return shape;
  }

  // Whether the inputs fit the options' max_bytes, counted as they are drawn: in float64.
  absl::Status CheckBytes() {
    const int64_t limit = source_.options().max_bytes;
    if (limit == 0) return absl::OkStatus();
    int64_t room = limit;
    for (size_t i = 0; i < chosen_.size(); ++i) {
      absl::StatusOr<Dims> shape = ShapeOf(i);
      if (!shape.ok()) return shape.status();
      const absl::StatusOr<int64_t> bytes = CheckedByteSize(DType::kFloat64, *shape);
      if (!bytes.ok() || *bytes > room) {
        return absl::ResourceExhaustedError(absl::StrCat(
            spec_.id(), ": ", chosen_[i]->name, ": random inputs of shape ", ToString(*shape),
            " exceed the limit of ", limit, " bytes for all inputs"));
      }
      room -= *bytes;
    }
    return absl::OkStatus();
  }

  absl::Status DrawInputs() {
    if (absl::Status s = CheckBytes(); !s.ok()) return s;
    for (size_t i = 0; i < chosen_.size(); ++i) {
      const Port& port = *chosen_[i];
      if (source_.request().inputs.contains(port.name)) continue;
      if (port.name == "cu_seqlens") {
        source_.request().inputs.Set(
            port.name, DrawOffsets(*source_.dims().Find("T"), *source_.dims().Find("M"), source_));
        continue;
      }
      absl::StatusOr<Dims> shape = ShapeOf(i);
      if (!shape.ok()) return shape.status();
      absl::StatusOr<Tensor> tensor = DrawTensor(port, source_.options().dtype, *shape, source_);
      if (!tensor.ok()) return tensor.status();
      source_.request().inputs.Set(port.name, *std::move(tensor));
    }
    return absl::OkStatus();
  }

  const Operator& op_;
  const OpSpec& spec_;
  RandomSource& source_;
  Draft draft_;
  std::vector<const Port*> chosen_;
  std::vector<size_t> alternatives_;
};

}  // namespace

RandomSource::RandomSource(const OpSpec& spec, const RandomOptions& options)
    : spec_(spec), options_(options), state_(options.seed) {}

int64_t RandomSource::Uniform(int64_t low, int64_t high) {
  if (high <= low) return low;
  return low + static_cast<int64_t>(Mix(state_) % static_cast<uint64_t>(high - low + 1));
}

double RandomSource::Uniform01() { return static_cast<double>(Mix(state_) >> 11) * 0x1p-53; }

double RandomSource::Gaussian() {
  // Box and Muller; one of the pair is enough here.
  const double radius = std::sqrt(-2 * std::log(1 - Uniform01()));
  return radius * std::cos(2 * std::numbers::pi * Uniform01());
}

bool RandomSource::Wants(absl::string_view input) {
  if (Contains(options_.with, input)) return true;
  if (Contains(options_.without, input)) return false;
  if (const bool* decided = wanted_.Find(input)) return *decided;
  const bool wanted = Uniform01() < options_.optional_inputs;
  wanted_.Set(input, wanted);
  return wanted;
}

size_t RandomSource::OneOf(std::initializer_list<std::initializer_list<absl::string_view>> groups) {
  const auto named = [](absl::Span<const absl::string_view> group,
                        const std::vector<std::string>& names) {
    return std::any_of(group.begin(), group.end(),
                       [&names](absl::string_view name) { return Contains(names, name); });
  };
  std::vector<size_t> possible;
  std::vector<size_t> asked;
  size_t index = 0;
  for (const absl::Span<const absl::string_view> group : groups) {
    if (named(group, options_.with)) asked.push_back(index);
    if (!named(group, options_.without)) possible.push_back(index);
    ++index;
  }
  if (!asked.empty()) possible = {asked.front()};
  if (possible.empty()) possible = {0};
  const size_t chosen =
      possible[static_cast<size_t>(Uniform(0, static_cast<int64_t>(possible.size()) - 1))];
  // A name may be in several groups.
  for (const bool giving : {false, true}) {
    index = 0;
    for (const auto& group : groups) {
      for (const absl::string_view name : group) {
        if ((index == chosen) == giving) wanted_.Set(name, giving);
      }
      ++index;
    }
  }
  return chosen;
}

bool RandomSource::Together(std::initializer_list<absl::string_view> group) {
  bool wanted = Wants(*group.begin());
  for (const absl::string_view name : group) {
    if (Contains(options_.with, name)) wanted = true;
    if (Contains(options_.without, name)) return Give(group, false);
  }
  return Give(group, wanted);
}

bool RandomSource::Give(absl::Span<const absl::string_view> group, bool wanted) {
  for (const absl::string_view name : group) wanted_.Set(name, wanted);
  return wanted;
}

void RandomSource::Attribute(absl::string_view name, AttrValue value) {
  if (!options_.attributes.contains(name)) request_.attributes.Set(name, std::move(value));
}

int64_t RandomSource::Dim(absl::string_view symbol, int64_t value) {
  const int64_t* fixed = options_.dims.Find(symbol);
  dims_.Set(symbol, fixed != nullptr ? *fixed : value);
  return *dims_.Find(symbol);
}

absl::Status CheckRandomOptions(const OpSpec& spec, const RandomOptions& options) {
  const auto fixable = [&spec](const std::string& name) {
    return spec.FindAttribute(name) == nullptr &&
           std::none_of(spec.derived().begin(), spec.derived().end(),
                        [&name](const auto& derived) { return derived.symbol == name; });
  };
  // Names of axes and inputs, in order of declaration.
  std::vector<std::string> symbols;
  std::vector<std::string> inputs;
  for (const Port& port : spec.inputs()) {
    inputs.push_back(port.name);
    for (const auto& shape : port.shapes) {
      for (const Expression& axis : shape) {
        for (const std::string& name : axis.Names()) {
          if (fixable(name) && !Contains(symbols, name)) symbols.push_back(name);
        }
      }
    }
  }
  const auto refuse = [&spec](absl::string_view name, absl::string_view as,
                              const std::vector<std::string>& known) {
    return absl::InvalidArgumentError(absl::StrCat(spec.id(), ": ", name, ": given as ", as,
                                                   ", expected one of ",
                                                   absl::StrJoin(known, ", ")));
  };
  for (const auto& [symbol, size] : options.dims) {
    if (!Contains(symbols, symbol)) return refuse(symbol, "a size", symbols);
  }
  for (const auto* names : {&options.with, &options.without}) {
    for (const std::string& name : *names) {
      if (!Contains(inputs, name)) return refuse(name, "an input", inputs);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CallRequest> RandomCall(const Operator& op, const RandomOptions& options) {
  absl::Status last;
  RandomOptions attempt_options = options;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    uint64_t seed = options.seed + 0x10001u * static_cast<uint64_t>(attempt);
    attempt_options.seed = Mix(seed);
    RandomSource source(op.spec, attempt_options);
    absl::StatusOr<CallRequest> request = Attempt(op, source).Run();
    if (request.ok()) {
      absl::StatusOr<BoundCall> bound = Bind(op.spec, *request);
      if (bound.ok() && op.check) {
        if (absl::Status s = op.check(*bound); !s.ok()) bound = s;
      }
      if (bound.ok()) return request;
      last = bound.status();
    } else if (!absl::IsFailedPrecondition(request.status())) {
      return request;
    } else {
      last = request.status();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      op.spec.id(), ": no random call fits the given sizes and attributes: ", last.message()));
}

}  // namespace attnd
