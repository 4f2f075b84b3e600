#include "clients/cli/random_inputs.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"

namespace attnd::cli {
namespace {

// Types have the same names on both sides.
absl::StatusOr<DType> KernelType(client::DType dtype) {
  const auto found = DTypeFromName(client::Name(dtype));
  if (!found) {
    return absl::InvalidArgumentError(absl::StrCat("type ", client::Name(dtype), " is not known"));
  }
  return *found;
}

absl::StatusOr<client::Tensor> ToClient(const Tensor& tensor) {
  auto dtype = client::DTypeFromName(Name(tensor.dtype()));
  if (!dtype.ok()) return dtype.status();
  return client::Tensor{*dtype,
                        {tensor.shape().begin(), tensor.shape().end()},
                        std::string(tensor.data<char>(), static_cast<size_t>(tensor.byte_size()))};
}

// Whether some input has the symbol as the size of an axis.
bool HasSymbol(const OpSpec& spec, const std::string& symbol) {
  for (const Port& port : spec.inputs()) {
    for (size_t i = 0; i < port.shapes.size(); ++i) {
      if (port.AxisOf(symbol, static_cast<int>(i)) >= 0) return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<client::Call> DrawCall(const RandomRequest& request) {
  Registry registry;
  RegisterAllOperators(registry);
  const auto op = registry.Find(request.op);
  if (!op.ok()) return op.status();
  const OpSpec& spec = (*op)->spec;

  RandomOptions options;
  options.seed = request.seed;
  options.optional_inputs = 0;
  options.with = request.with;
  options.packed = request.packed;
  const auto dtype = KernelType(request.dtype);
  if (!dtype.ok()) return dtype.status();
  options.dtype = *dtype;
  for (const auto& [name, value] : request.attributes) options.attributes.Set(name, value);
  for (const auto& [symbol, size] : request.dims) options.dims.Set(symbol, size);
  if (absl::Status s = CheckRandomOptions(spec, options); !s.ok()) return s;
  RandomOptions usual = options;
  for (const auto& [symbol, size] : request.usual) {
    if (!usual.dims.contains(symbol) && HasSymbol(spec, symbol)) usual.dims.Set(symbol, size);
  }

  auto drawn = RandomCall(**op, usual);
  if (!drawn.ok()) drawn = RandomCall(**op, options);
  if (!drawn.ok()) return drawn.status();
  client::Call call{.op = request.op};
  for (const auto& [name, tensor] : drawn->inputs) {
    auto copy = ToClient(tensor);
    if (!copy.ok()) return copy.status();
    call.inputs[name] = *std::move(copy);
  }
  for (const auto& [name, value] : drawn->attributes) call.attributes[name] = value;
  return call;
}

}  // namespace attnd::cli
