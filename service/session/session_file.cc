#include "service/session/session_file.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/core/safetensors.h"
#include "models/sha256.h"
#include "nlohmann/json.hpp"
#include "service/session/operator_state.h"
#include "service/session/session_log.h"
#include "service/wire.h"

namespace attnd {
namespace {

constexpr char kFormat[] = "attnd.session";
constexpr char kVersion[] = "1";
constexpr char kTokens[] = "tokens";
constexpr char kChecksum[] = "sha256";
constexpr char kState[] = "state.";

using Metadata = std::map<std::string, std::string>;

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("session file: ", what));
}

// Over everything but itself.
std::string Checksum(const Metadata& metadata, absl::Span<const absl::string_view> tensors) {
  Sha256Stream digest;
  for (const auto& [key, value] : metadata) {
    if (key != kChecksum) digest.Add(absl::StrCat(key, "=", value, "\n"));
  }
  for (const absl::string_view bytes : tensors) digest.Add(bytes);
  return absl::BytesToHexString(digest.Finish());
}

std::string FixedName(size_t layer) { return absl::StrCat("state.", layer, ".fixed"); }
std::string PagesName(size_t layer) { return absl::StrCat("state.", layer, ".pages"); }

absl::string_view BytesOf(const Tensor& tensor) {
  return {tensor.data<char>(), static_cast<size_t>(tensor.byte_size())};
}

const SafetensorsEntry* Find(const SafetensorsHeader& header, absl::string_view name) {
  const auto found = std::find_if(header.entries.begin(), header.entries.end(),
                                  [&](const SafetensorsEntry& e) { return e.name == name; });
  return found == header.entries.end() ? nullptr : &*found;
}

// Empty where there is none.
absl::string_view Text(const SafetensorsHeader& header, const std::string& key) {
  const auto found = header.metadata.find(key);
  return found == header.metadata.end() ? absl::string_view() : found->second;
}

absl::StatusOr<uint64_t> Number(const SafetensorsHeader& header, const std::string& key) {
  uint64_t value = 0;
  if (absl::SimpleAtoi(Text(header, key), &value)) return value;
  return Bad(
      absl::StrCat("metadata: ", key, ": given \"", Text(header, key), "\", expected a number"));
}

// Header and tensors, once the checksum over both is in the header.
std::string Assemble(SafetensorsHeader& header, absl::Span<const absl::string_view> parts) {
  header.metadata[kChecksum] = Checksum(header.metadata, parts);
  std::string file = FormatSafetensorsHeader(header);
  size_t size = file.size();
  for (const absl::string_view part : parts) size += part.size();
  file.reserve(size);
  for (const absl::string_view part : parts) file.append(part.data(), part.size());
  return file;
}

// A message that has no field but the attributes, so that protobuf writes and reads them.
absl::Status ParseAttributes(absl::string_view text, SessionFile& session) {
  v1::CreateSessionRequest attributes;
  const auto parsed = google::protobuf::util::JsonStringToMessage(
      absl::StrCat("{\"attributes\":", text, "}"), &attributes);
  if (!parsed.ok()) return Bad("metadata: attributes: given no JSON object of attributes");
  session.attributes = attributes.attributes();
  return absl::OkStatus();
}

std::string FormatAttributes(const SessionFile& session) {
  v1::CreateSessionRequest attributes;
  *attributes.mutable_attributes() = session.attributes;
  std::string text;
  (void)google::protobuf::util::MessageToJsonString(attributes, &text);
  const auto object = nlohmann::json::parse(text, nullptr, false);
  return object.contains("attributes") ? object["attributes"].dump() : "{}";
}

absl::Status ParseOperator(absl::string_view file, const SafetensorsHeader& header,
                           SessionFile& session) {
  const absl::StatusOr<uint64_t> position = Number(header, "position");
  if (!position.ok()) return position.status();
  session.op = std::string(Text(header, "op"));
  session.kernel = std::string(Text(header, "kernel"));
  session.chain_hash = absl::HexStringToBytes(Text(header, "chain_hash"));
  if (absl::Status s = ParseAttributes(Text(header, "attributes"), session); !s.ok()) return s;
  session.state.set_position(*position);
  for (const SafetensorsEntry& entry : header.entries) {
    absl::string_view name = entry.name;
    if (!absl::ConsumePrefix(&name, kState))
      return Bad(absl::StrCat(name, ": given, expected states"));
    v1::Tensor& tensor = (*session.state.mutable_tensors())[std::string(name)];
    tensor.set_dtype(ToWire(entry.dtype));
    tensor.mutable_shape()->Add(entry.shape.begin(), entry.shape.end());
    tensor.set_data(file.data() + entry.begin, entry.size);
  }
  if ((*position == 0) == session.state.tensors().empty()) return absl::OkStatus();
  return Bad(absl::StrCat("state: given ", session.state.tensors_size(), " tensors at position ",
                          *position));
}

absl::StatusOr<Tensor> CopyOf(absl::string_view bytes) {
  absl::StatusOr<Tensor> tensor =
      AllocateHost(DType::kFloat32, {static_cast<int64_t>(bytes.size() / sizeof(float))});
  if (tensor.ok()) std::memcpy(tensor->raw(), bytes.data(), bytes.size());
  return tensor;
}

}  // namespace

std::string FormatSessionFile(const SessionFile& session, absl::string_view chain_hash,
                              const models::SequenceState& state, Device device) {
  SafetensorsHeader header;
  header.metadata = {{"format", kFormat},
                     {"version", kVersion},
                     {"model", session.model},
                     {"weights_hash", session.weights_hash},
                     {"seed", absl::StrCat(session.seed)},
                     {"sampler", "philox4x32-10 of seed and position"},
                     {"position", absl::StrCat(session.tokens.size())},
                     {"chain_hash", absl::BytesToHexString(chain_hash)},
                     {"device", std::string(Name(device))},
                     {"state_position", absl::StrCat(state.position())},
                     {"labels", nlohmann::json(session.labels).dump()}};
  std::vector<absl::string_view> parts;
  const auto add = [&](std::string name, DType dtype, Dims shape) {
    header.entries.push_back({std::move(name), dtype, std::move(shape)});
  };
  add(kTokens, DType::kInt32, {static_cast<int64_t>(session.tokens.size())});
  parts.emplace_back(reinterpret_cast<const char*>(session.tokens.data()),
                     session.tokens.size() * sizeof(int32_t));
  for (int64_t l = 0; l < state.layers(); ++l) {
    const models::LayerState& layer = state.layer(l);
    const auto index = static_cast<size_t>(l);
    if (layer.fixed.num_elements() > 0) {
      add(FixedName(index), DType::kFloat32, layer.fixed.shape());
      parts.push_back(BytesOf(layer.fixed));
    }
    const int64_t used = (state.position() + models::kPagePositions - 1) / models::kPagePositions;
    const auto end = std::min(static_cast<size_t>(used), layer.pages.size());
    size_t first = 0;
    while (first < end && !layer.pages[first].defined()) ++first;
    if (first == end) continue;
    add(PagesName(index), DType::kFloat32,
        {static_cast<int64_t>(end - first), layer.pages[first].num_elements()});
    for (size_t i = first; i < end; ++i) parts.push_back(BytesOf(layer.pages[i]));
  }
  return Assemble(header, parts);
}

std::string FormatOperatorFile(const SessionFile& session) {
  SafetensorsHeader header;
  header.metadata = {{"format", kFormat},
                     {"version", kVersion},
                     {"op", session.op},
                     {"attributes", FormatAttributes(session)},
                     {"kernel", session.kernel},
                     {"seed", absl::StrCat(session.seed)},
                     {"position", absl::StrCat(session.state.position())},
                     {"chain_hash", absl::BytesToHexString(session.chain_hash)},
                     {"labels", nlohmann::json(session.labels).dump()}};
  std::vector<absl::string_view> parts;
  for (const auto& [name, tensor] : session.state.tensors()) {
    header.entries.push_back({absl::StrCat(kState, name),
                              FromWire(tensor.dtype()).value_or(DType::kFloat32),
                              Dims(tensor.shape().begin(), tensor.shape().end())});
    parts.push_back(tensor.data());
  }
  return Assemble(header, parts);
}

absl::StatusOr<SessionFile> ParseSessionFile(absl::string_view file) {
  const absl::StatusOr<SafetensorsHeader> header = ParseSafetensors(file);
  if (!header.ok()) return Bad(header.status().message());
  if (Text(*header, "format") != kFormat) {
    return Bad(absl::StrCat("metadata: format: given \"", Text(*header, "format"),
                            "\", expected \"", kFormat, "\""));
  }
  if (Text(*header, "version") != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session file: version: given \"", Text(*header, "version"), "\", expected ", kVersion));
  }
  std::vector<absl::string_view> parts;
  uint64_t end = 0;
  for (const SafetensorsEntry& entry : header->entries) {
    parts.push_back(file.substr(entry.begin, entry.size));
    end = std::max(end, entry.begin + entry.size);
  }
  const std::string checksum = Checksum(header->metadata, parts);
  if (Text(*header, kChecksum) != checksum || end != file.size()) {
    return absl::DataLossError(absl::StrCat("session file: damaged: its bytes have the SHA-256 ",
                                            checksum, ", expected ", Text(*header, kChecksum)));
  }
  SessionFile session;
  session.model = std::string(Text(*header, "model"));
  session.weights_hash = std::string(Text(*header, "weights_hash"));
  absl::StatusOr<uint64_t> seed = Number(*header, "seed");
  if (!seed.ok()) return seed.status();
  session.seed = *seed;
  const auto labels = nlohmann::json::parse(std::string(Text(*header, "labels")), nullptr, false);
  for (const auto& [key, value] : labels.items()) {
    if (!value.is_string()) return Bad(absl::StrCat("metadata: labels: ", key, ": given no text"));
    session.labels[key] = value.get<std::string>();
  }
  if (!Text(*header, "op").empty()) {
    if (absl::Status s = ParseOperator(file, *header, session); !s.ok()) return s;
    return session;
  }
  const SafetensorsEntry* tokens = Find(*header, kTokens);
  if (tokens == nullptr || tokens->dtype != DType::kInt32 || tokens->shape.size() != 1) {
    return Bad("tokens: given none, expected int32 [position]");
  }
  session.tokens.resize(tokens->size / sizeof(int32_t));
  if (tokens->size > 0) {
    std::memcpy(session.tokens.data(), file.data() + tokens->begin, tokens->size);
  }
  const std::string chain = SessionLog::ChainHashOf(session.seed, session.tokens);
  if (absl::BytesToHexString(chain) != Text(*header, "chain_hash")) {
    return absl::DataLossError("session file: damaged: its tokens do not have its chain_hash");
  }
  return session;
}

absl::StatusOr<models::SequenceState> StateOfSessionFile(absl::string_view file,
                                                         const models::LanguageModel& model) {
  const absl::StatusOr<SafetensorsHeader> header = ParseSafetensors(file);
  if (!header.ok()) return header.status();
  const absl::Span<const models::LayerLayout> layouts = model.layouts();
  // Files without it are of the time when there was the CPU alone.
  const absl::string_view given = Text(*header, "device"), own = Name(model.device());
  if (given != own && !(given.empty() && model.device() == Device::kCpu)) {
    return absl::FailedPreconditionError(
        absl::StrCat("session file: device: given ", given.empty() ? "cpu" : given,
                     ", this server computes on ", own, ": import it with recompute"));
  }
  const absl::StatusOr<uint64_t> position = Number(*header, "state_position");
  if (!position.ok()) return position.status();
  std::vector<models::LayerState> layers;
  for (size_t l = 0; l < layouts.size(); ++l) {
    models::LayerState layer;
    const SafetensorsEntry* fixed = Find(*header, FixedName(l));
    absl::StatusOr<Tensor> floats =
        CopyOf(fixed == nullptr ? "" : file.substr(fixed->begin, fixed->size));
    if (!floats.ok()) return floats.status();
    layer.fixed = *std::move(floats);
    const SafetensorsEntry* pages = Find(*header, PagesName(l));
    if (pages != nullptr && pages->dtype == DType::kFloat32 && pages->shape.size() == 2 &&
        *position <= uint64_t{1} << 40) {
      const uint64_t used = (*position + models::kPagePositions - 1) / models::kPagePositions;
      const auto count = static_cast<uint64_t>(pages->shape[0]);
      const uint64_t size = static_cast<uint64_t>(pages->shape[1]) * sizeof(float);
      layer.pages.resize(used - std::min(used, count));
      for (uint64_t i = 0; i < count; ++i) {
        absl::StatusOr<Tensor> page = CopyOf(file.substr(pages->begin + i * size, size));
        if (!page.ok()) return page.status();
        layer.pages.push_back(*std::move(page));
      }
    }
    layers.push_back(std::move(layer));
  }
  return model.StateOf(*position, std::move(layers));
}

}  // namespace attnd
