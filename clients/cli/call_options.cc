#include "clients/cli/call_options.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "clients/cli/random_inputs.h"
#include "clients/cli/tensor_files.h"

namespace attnd::cli {
namespace {

using client::Attribute;

// "name=value" in two.
absl::StatusOr<std::pair<std::string, std::string>> Assignment(const std::string& option,
                                                               const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, ": given \"", text, "\", expected name=value"));
  }
  return std::pair(text.substr(0, equals), text.substr(equals + 1));
}

bool ParseScalar(absl::string_view text, bool& value) {
  value = text == "true";
  return value || text == "false";
}
bool ParseScalar(absl::string_view text, int64_t& value) { return absl::SimpleAtoi(text, &value); }
bool ParseScalar(absl::string_view text, double& value) { return absl::SimpleAtod(text, &value); }

template <typename T>
bool ParseOne(absl::string_view text, Attribute& out) {
  T value;
  if (!ParseScalar(absl::StripAsciiWhitespace(text), value)) return false;
  out = value;
  return true;
}

template <typename T>
bool ParseList(absl::string_view text, Attribute& out) {
  text = absl::StripAsciiWhitespace(text);
  if (absl::ConsumePrefix(&text, "[") && !absl::ConsumeSuffix(&text, "]")) return false;
  std::vector<T> values;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    T value;
    if (!ParseScalar(absl::StripAsciiWhitespace(part), value)) return false;
    values.push_back(value);
  }
  out = std::move(values);
  return true;
}

}  // namespace

absl::StatusOr<Attribute> ParseAttribute(const std::string& name, const std::string& type,
                                         const std::string& text) {
  Attribute value;
  bool read = true;
  if (type == "bool") {
    read = ParseOne<bool>(text, value);
  } else if (type == "int") {
    read = ParseOne<int64_t>(text, value);
  } else if (type == "float") {
    read = ParseOne<double>(text, value);
  } else if (type == "bool[]") {
    read = ParseList<bool>(text, value);
  } else if (type == "int[]") {
    read = ParseList<int64_t>(text, value);
  } else if (type == "float[]") {
    read = ParseList<double>(text, value);
  } else {
    value = text;
  }
  if (!read) {
    return absl::InvalidArgumentError(
        absl::StrCat("--attr ", name, ": given \"", text, "\", expected ", type));
  }
  return value;
}

void CallOptions::AddFilesTo(CLI::App& command) {
  command.add_option("--input", input_, "Input from a .npy file: q=queries.npy (repeat)");
  command.add_option("--inputs", inputs_file_, "Inputs by name from a .npz or .safetensors file");
}

void CallOptions::AddSettingsTo(CLI::App& command) {
  command.add_option("--attr", attribute_, "Attribute: scale=0.5, window=7,7 (repeat)");
  command.add_option("--kernel", kernel_, "Kernel to run: composed, or a name of `describe`");
}

void CallOptions::AddOperatorTo(CLI::App& command) {
  command.add_option("--op", op_, "Operator's id");
  AddSettingsTo(command);
}

void CallOptions::AddTo(CLI::App& command) {
  command.add_option("op", op_, "Operator's id")->required();
  AddFilesTo(command);
  AddSettingsTo(command);
  command.add_flag("--random", random_, "Random inputs");
  command.add_option("--dim", dim_, "Size of random inputs by symbol: T=128 (repeat)");
  command.add_option("--dtype", dtype_, "Type of random inputs: f32, f16, bf16, f64")
      ->capture_default_str();
  command.add_option("--seed", seed_, "Seed of random inputs")->capture_default_str();
  command.add_option("--with", with_, "Optional input to draw as well (repeat)");
  command.add_flag("--packed", packed_, "Draw packed sequences (cu_seqlens)");
}

absl::StatusOr<std::map<std::string, int64_t>> CallOptions::Dims() const {
  std::map<std::string, int64_t> dims;
  for (const std::string& text : dim_) {
    const auto pair = Assignment("--dim", text);
    if (!pair.ok()) return pair.status();
    int64_t size;
    if (!absl::SimpleAtoi(pair->second, &size) || size < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--dim ", pair->first, ": given \"", pair->second, "\", expected a size"));
    }
    dims[pair->first] = size;
  }
  return dims;
}

absl::StatusOr<v1::RandomInputs> CallOptions::RandomRequest() const {
  const auto dims = Dims();
  if (!dims.ok()) return dims.status();
  const auto dtype = client::DTypeFromName(dtype_);
  if (!dtype.ok()) return dtype.status();
  if (packed_ || !with_.empty()) {
    return absl::InvalidArgumentError(
        "--packed and --with are for inputs drawn here, not for those that the server draws");
  }
  v1::RandomInputs random;
  random.set_seed(seed_);
  random.set_dtype(*dtype);
  random.mutable_dims()->insert(dims->begin(), dims->end());
  return random;
}

absl::StatusOr<client::Call> CallOptions::WithoutInputs(const client::Client& client) const {
  client::Call call{.op = op_, .kernel = kernel_};
  if (attribute_.empty()) return call;
  const auto description = client.Describe(op_);
  if (!description.ok()) return description.status();
  for (const std::string& text : attribute_) {
    const auto pair = Assignment("--attr", text);
    if (!pair.ok()) return pair.status();
    const v1::AttributeDescription* described = nullptr;
    for (const v1::AttributeDescription& attribute : description->attributes()) {
      if (attribute.name() == pair->first) described = &attribute;
    }
    if (described == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--attr ", pair->first, ": ", op_, " has no such attribute, expected one of ",
          absl::StrJoin(description->attributes(), ", ",
                        [](std::string* out, const v1::AttributeDescription& known) {
                          absl::StrAppend(out, known.name());
                        })));
    }
    auto value = ParseAttribute(pair->first, described->type(), pair->second);
    if (!value.ok()) return value.status();
    call.attributes[pair->first] = *std::move(value);
  }
  return call;
}

absl::StatusOr<client::Call> CallOptions::Build(const client::Client& client, bool random,
                                                const std::map<std::string, int64_t>& usual) const {
  if (!random && !has_files()) {
    return absl::InvalidArgumentError(
        "no inputs: expected --input name=file.npy, --inputs file.npz or --random");
  }
  auto call = WithoutInputs(client);
  if (!call.ok()) return call;
  if (random) {
    const auto dims = Dims();
    if (!dims.ok()) return dims.status();
    const auto dtype = client::DTypeFromName(dtype_);
    if (!dtype.ok()) return dtype.status();
    auto drawn = DrawCall({.op = op_,
                           .seed = seed_,
                           .dtype = *dtype,
                           .dims = *dims,
                           .attributes = call->attributes,
                           .with = with_,
                           .packed = packed_,
                           .usual = usual});
    if (!drawn.ok()) return drawn.status();
    call->inputs = std::move(drawn->inputs);
    call->attributes = std::move(drawn->attributes);
  }
  auto files = ReadFiles();
  if (!files.ok()) return files.status();
  for (auto& [name, tensor] : *files) call->inputs[name] = std::move(tensor);
  return call;
}

absl::StatusOr<std::map<std::string, client::Tensor>> CallOptions::ReadFiles() const {
  std::map<std::string, client::Tensor> inputs;
  if (!inputs_file_.empty()) {
    auto tensors = ReadTensors(inputs_file_);
    if (!tensors.ok()) return tensors.status();
    inputs = *std::move(tensors);
  }
  for (const std::string& text : input_) {
    const auto pair = Assignment("--input", text);
    if (!pair.ok()) return pair.status();
    auto tensor = ReadTensor(pair->second);
    if (!tensor.ok()) return tensor.status();
    inputs[pair->first] = *std::move(tensor);
  }
  return inputs;
}

}  // namespace attnd::cli
