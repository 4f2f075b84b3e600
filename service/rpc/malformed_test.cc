// Requests that are wrong, one mistake each, over both protocols: each is refused with the right
// code and a message that names what is wrong; afterwards the server still answers and has not
// grown.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <grpcpp/generic/generic_stub.h>
#include <malloc.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "service/rpc/testing/rpc_fixture.h"

namespace attnd {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kHuge = int64_t{1} << 62;
constexpr int64_t k31 = std::numeric_limits<int32_t>::max();

// ---- Mistakes that both protocols can make ----------------------------------------------------

using Edit = std::function<void(TestCall&)>;

Edit Shape(const std::string& name, const std::vector<int64_t>& shape) {
  return [=](TestCall& c) { c.inputs[name].shape = shape; };
}
// A tensor of that shape, zeros.
Edit Sized(const std::string& name, const std::vector<int64_t>& shape,
           DType dtype = DType::kFloat32) {
  return [=](TestCall& c) { c.inputs[name] = Zeros(dtype, shape); };
}
Edit Bytes(const std::string& name, int change) {
  return [=](TestCall& c) {
    std::string& data = c.inputs[name].data;
    data.resize(static_cast<size_t>(static_cast<int64_t>(data.size()) + change));
  };
}
Edit Type(const std::string& name, DType dtype) {
  return [=](TestCall& c) { c.inputs[name] = Zeros(dtype, c.inputs[name].shape); };
}
Edit Drop(const std::string& name) {
  return [=](TestCall& c) { c.inputs.erase(name); };
}
Edit Offsets(const std::vector<int32_t>& offsets) {
  return [=](TestCall& c) {
    c.inputs["cu_seqlens"] = Values<int32_t>({static_cast<int64_t>(offsets.size())}, offsets);
  };
}
Edit Index(int32_t value) {
  return [=](TestCall& c) {
    c.inputs["index"] = Values<int32_t>({1, 4, 2}, {0, 0, 0, value, 0, 0, 0, 0});
  };
}
Edit Attr(const std::string& name, const AttrValue& value) {
  return [=](TestCall& c) { c.attributes[name] = value; };
}
Edit Text(const std::string& name, const char* value) { return Attr(name, std::string(value)); }
Edit Int(const std::string& name, int64_t value) { return Attr(name, value); }
Edit Ints(const std::string& name, const std::vector<int64_t>& values) {
  return Attr(name, values);
}
Edit NoAttr(const std::string& name) {
  return [=](TestCall& c) { c.attributes.erase(name); };
}
Edit Op(const std::string& op) {
  return [=](TestCall& c) { c.op = op; };
}
Edit Kernel(const std::string& kernel) {
  return [=](TestCall& c) { c.kernel = kernel; };
}
Edit Outputs(const std::vector<std::string>& outputs) {
  return [=](TestCall& c) { c.outputs = outputs; };
}
Edit Both(const Edit& a, const Edit& b) {
  return [=](TestCall& c) {
    a(c);
    b(c);
  };
}
Edit ManyInputs(int count) {
  return [=](TestCall& c) {
    for (int i = 0; i < count; ++i) c.inputs[absl::StrCat("x", i)] = Zeros(DType::kFloat32, {1});
  };
}
Edit ManyAttributes(int count) {
  return [=](TestCall& c) {
    for (int i = 0; i < count; ++i) c.attributes[absl::StrCat("x", i)] = true;
  };
}

struct Mistake {
  const char* name;
  Edit edit;
  std::vector<std::string> mentions;
  StatusCode code = StatusCode::INVALID_ARGUMENT;
};

std::vector<Mistake> RecurrenceMistakes() {
  const std::string long_name(300, 'n');
  return {
      // Operators and kernels.
      {"no operator", Op(""), {"name ''"}},
      {"unknown operator",
       Op("toy_recurrences"),
       {"toy_recurrences", "nearest", "toy_recurrence"},
       StatusCode::NOT_FOUND},
      {"operator in capitals", Op("TOY_RECURRENCE"), {"TOY_RECURRENCE"}, StatusCode::NOT_FOUND},
      {"operator as a path", Op("../toy_recurrence"), {"../toy_recurrence", "letters"}},
      {"operator with a space", Op("toy recurrence"), {"toy recurrence", "letters"}},
      {"operator with a line end", Op("toy_recurrence\n"), {"\\n", "letters"}},
      {"operator too long", Op(long_name), {"300 bytes", "256"}},
      {"unknown kernel", Kernel("no_such_kernel"), {"toy_recurrence", "no_such_kernel"}},
      {"kernel too long", Kernel(long_name), {"kernel", "300 bytes", "256"}},
      // Inputs that are not there, or should not be.
      {"no inputs", [](TestCall& c) { c.inputs.clear(); }, {"toy_recurrence", "missing"}},
      {"no q", Drop("q"), {"q: missing", "float[B,T,H,K]"}},
      {"no k", Drop("k"), {"k: missing", "float[B,T,HK,K]"}},
      {"no v", Drop("v"), {"v: missing"}},
      {"unknown input", Sized("w", {1}), {"w: given", "nearest"}},
      {"input in capitals", Sized("Q", {1}), {"Q: given", "nearest"}},
      {"input without a name", Sized("", {1}), {"name ''"}},
      {"input with a slash", Sized("a/b", {1}), {"a/b", "letters"}},
      {"input with a quote", Sized("a'b", {1}), {"letters"}},
      {"input name too long", Sized(long_name, {1}), {"300 bytes", "256"}},
      {"too many inputs", ManyInputs(40), {"inputs: given 43", "at most 32"}},
      {"output as an input", Sized("o", {1, 3, 2, 4}), {"o: given", "nearest"}},
      {"conditional input missing", Text("gate", "softplus"), {"A_log: missing", "float32[H]"}},
      {"conditional input without its condition",
       Sized("A_log", {2}),
       {"A_log: given", "gate == 'softplus'", "gate='log'"}},
      {"optional input without its condition",
       Sized("dt_bias", {2}),
       {"dt_bias: given", "gate != 'log'"}},
      // Ranks.
      {"rank 0", Sized("q", {}), {"q: given []", "[B,T,H,K]"}},
      {"rank 1", Sized("q", {24}), {"q: given [24]", "[B,T,H,K]"}},
      {"rank 3", Sized("q", {3, 2, 4}), {"q: given [3,2,4]"}},
      {"rank 5", Sized("q", {1, 1, 3, 2, 4}), {"q: given [1,1,3,2,4]"}},
      {"rank 8", Sized("q", {1, 1, 1, 1, 1, 3, 2, 4}), {"q: given"}},
      {"rank 9", Sized("q", {1, 1, 1, 1, 1, 1, 3, 2, 4}), {"q: given rank 9", "at most 8"}},
      {"rank 100", Sized("q", std::vector<int64_t>(100, 1)), {"q: given rank 100", "at most 8"}},
      {"neither alternative's rank", Sized("g", {1, 3}), {"g: given [1,3]", "[B,T,H]"}},
      {"state of rank 4", Sized("initial_state", {1, 2, 4, 4}), {"initial_state: given [1,2,4,4]"}},
      {"offsets of rank 0", Sized("cu_seqlens", {}, DType::kInt32), {"cu_seqlens: given []"}},
      {"offsets of rank 2",
       Sized("cu_seqlens", {2, 1}, DType::kInt32),
       {"cu_seqlens: given [2,1]"}},
      // Sizes that contradict each other.
      {"another batch", Sized("k", {2, 3, 1, 4}), {"k: given [2,3,1,4]", "B=1"}},
      {"another length", Sized("k", {1, 4, 1, 4}), {"k: given [1,4,1,4]", "T=3"}},
      {"another head size", Sized("k", {1, 3, 1, 5}), {"k: given [1,3,1,5]", "K=4"}},
      {"other heads", Sized("v", {1, 3, 4, 4}), {"v: given [1,3,4,4]", "H=2"}},
      {"heads that do not divide",
       Sized("k", {1, 3, 3, 4}),
       {"H, HK", "H=2", "HK=3", "query heads are a multiple of key heads"}},
      {"gate of another length", Sized("g", {1, 2, 2}), {"g: given [1,2,2]"}},
      {"gate with other channels", Sized("g", {1, 3, 2, 3}), {"g: given [1,3,2,3]", "K=4"}},
      {"state of another batch",
       Sized("initial_state", {2, 2, 4}),
       {"initial_state: given [2,2,4]", "M=1"}},
      {"state of other heads", Sized("initial_state", {1, 3, 4}), {"initial_state: given [1,3,4]"}},
      {"state of another size",
       Sized("initial_state", {1, 2, 3}),
       {"initial_state: given [1,2,3]", "K=4"}},
      {"count of another size",
       Sized("initial_state_n", {1, 1}),
       {"initial_state_n: given [1,1]", "H=2"}},
      // Sizes of zero, and sizes that cannot be.
      {"no heads",
       Both(Sized("q", {1, 3, 0, 4}), Sized("v", {1, 3, 0, 4})),
       {"size of 0", "at least 1"}},
      {"no key heads", Sized("k", {1, 3, 0, 4}), {"k", "0"}},
      {"no channels",
       [](TestCall& c) {
         for (auto& [name, t] : c.inputs) t = Zeros(DType::kFloat32, {1, 3, t.shape[2], 0});
       },
       {"size of 0 for K"}},
      {"no batch",
       [](TestCall& c) {
         for (auto& [name, t] : c.inputs) t = Zeros(DType::kFloat32, {0, 3, t.shape[2], 4});
       },
       {"size of 0 for B"}},
      {"negative size", Shape("q", {1, 3, -2, 4}), {"q: given shape [1,3,-2,4]", "from 0"}},
      {"two negative sizes", Shape("q", {1, -3, -2, 4}), {"q: given shape [1,-3,-2,4]"}},
      {"size of -1 as a wildcard", Shape("q", {1, -1, 2, 4}), {"q: given shape [1,-1,2,4]"}},
      {"smallest number",
       Shape("q", {1, std::numeric_limits<int64_t>::min(), 2, 4}),
       {"q: given shape", "-9223372036854775808"}},
      {"largest number",
       Shape("q", {1, std::numeric_limits<int64_t>::max(), 2, 4}),
       {"q: given shape", "9223372036854775807"}},
      {"size beyond 2^31", Shape("q", {1, k31 + 1, 1, 1}), {"q: given shape", "2147483647"}},
      {"product beyond 2^40", Shape("q", {1, k31, 1024, 1}), {"q: given shape", "elements"}},
      {"product beyond 2^64", Shape("q", {k31, k31, k31, k31}), {"q: given shape", "elements"}},
      {"product that wraps to zero", Shape("q", {kHuge, 4, 1, 1}), {"q: given shape"}},
      {"product that wraps to 96 bytes",
       Shape("q", {1 << 30, 1 << 30, 1 << 4, 1}),
       {"q: given shape", "elements"}},
      {"zero beside huge", Shape("q", {0, kHuge, 2, 4}), {"q: given shape"}},
      {"huge state",
       Both(Sized("initial_state", {1}), Shape("initial_state", {k31, k31, k31})),
       {"initial_state: given shape", "elements"}},
      // Bytes that are not what the shape needs.
      {"one byte less", Bytes("q", -1), {"q: given 95 bytes", "96", "float32[1,3,2,4]"}},
      {"one byte more", Bytes("q", 1), {"q: given 97 bytes", "96"}},
      {"one element less", Bytes("v", -4), {"v: given 92 bytes", "96"}},
      {"no bytes", Bytes("q", -96), {"q: given 0 bytes", "96"}},
      {"twice the bytes", Bytes("k", 48), {"k: given 96 bytes", "48"}},
      {"shape without bytes", Shape("q", {1, 1000000, 2, 4}), {"q: given 96 bytes", "32000000"}},
      {"largest shape without bytes", Shape("q", {1, 1 << 30, 256, 4}), {"q: given 96 bytes"}},
      {"bytes for an empty tensor", Shape("q", {1, 0, 2, 4}), {"q: given 96 bytes", "expected 0"}},
      {"half type with float bytes",
       [](TestCall& c) { c.inputs["q"].dtype = DType::kFloat16; },
       {"q: given 96 bytes", "48"}},
      {"offsets cut",
       Both(Offsets({0, 3}), Bytes("cu_seqlens", -2)),
       {"cu_seqlens: given 6 bytes", "8"}},
      // Types.
      {"integer q", Type("q", DType::kInt32), {"q: given int32", "float32"}},
      {"bool q", Type("q", DType::kBool), {"q: given bool", "float32"}},
      {"int64 v", Type("v", DType::kInt64), {"v: given int64"}},
      {"mixed half", Type("k", DType::kFloat16), {"k: given float16", "float32", "type of q"}},
      {"mixed bfloat16", Type("v", DType::kBFloat16), {"v: given bfloat16", "float32"}},
      {"mixed double", Type("v", DType::kFloat64), {"v: given float64", "float32"}},
      {"double gate in a float call",
       Sized("g", {1, 3, 2}, DType::kFloat64),
       {"g: given float64", "float32"}},
      {"integer gate", Sized("g", {1, 3, 2}, DType::kInt32), {"g: given int32", "float32"}},
      {"integer state",
       Sized("initial_state", {1, 2, 4}, DType::kInt64),
       {"initial_state: given int64", "float32"}},
      {"int64 offsets",
       Sized("cu_seqlens", {2}, DType::kInt64),
       {"cu_seqlens: given int64", "int32"}},
      {"float offsets", Sized("cu_seqlens", {2}), {"cu_seqlens: given float32", "int32"}},
      // Packed sequences.
      {"offsets do not start at 0", Offsets({1, 3}), {"cu_seqlens[0]=1", "expected 0"}},
      {"offsets start below 0", Offsets({-1, 3}), {"cu_seqlens[0]=-1"}},
      {"offsets end early", Offsets({0, 2}), {"last offset of 2", "T=3"}},
      {"offsets end late", Offsets({0, 4}), {"last offset of 4", "T=3"}},
      {"offsets decrease", Offsets({0, 2, 1, 3}), {"cu_seqlens[2]=1 after 2"}},
      {"offsets overshoot", Offsets({0, 100, 3}), {"cu_seqlens[2]=3 after 100"}},
      {"offsets at the edge",
       Offsets({0, std::numeric_limits<int32_t>::max()}),
       {"last offset of 2147483647"}},
      {"offsets at the other edge",
       Offsets({0, std::numeric_limits<int32_t>::min(), 3}),
       {"-2147483648"}},
      {"no offsets", Sized("cu_seqlens", {0}, DType::kInt32), {"cu_seqlens"}},
      {"one offset", Offsets({0}), {"cu_seqlens"}},
      {"packed with a batch",
       [](TestCall& c) {
         for (auto& [name, t] : c.inputs) t = Zeros(DType::kFloat32, {2, 3, t.shape[2], 4});
         Offsets({0, 3})(c);
       },
       {"cu_seqlens", "B=2", "B=1"}},
      {"packed state of the wrong count",
       Both(Offsets({0, 1, 3}), Sized("initial_state", {3, 2, 4})),
       {"initial_state: given [3,2,4]", "M=2"}},
      // Attributes.
      {"unknown attribute", Int("scales", 1), {"scales: given", "nearest", "scale"}},
      {"attribute in capitals", Int("Scale", 1), {"Scale: given", "nearest"}},
      {"attribute without a name", Int("", 1), {"name ''"}},
      {"attribute with a space", Int("sc ale", 1), {"sc ale", "letters"}},
      {"attribute name too long", Int(long_name, 1), {"300 bytes", "256"}},
      {"too many attributes", ManyAttributes(70), {"given 70", "at most 64"}},
      {"scale NaN", Attr("scale", kNaN), {"scale: given", "finite"}},
      {"scale infinite", Attr("scale", kInf), {"scale: given", "finite"}},
      {"scale minus infinite", Attr("scale", -kInf), {"scale: given", "finite"}},
      {"scale as text", Text("scale", "0.5"), {"scale: given '0.5'", "float"}},
      {"scale as bool", Attr("scale", true), {"scale: given true", "float"}},
      {"eps below its bound", Attr("eps", -1e-9), {"eps: given -1e-09", ">= 0"}},
      {"eps NaN", Attr("eps", kNaN), {"eps: given", "finite"}},
      {"choice that is none",
       Text("gate", "tanh"),
       {"gate: given 'tanh'", "log, softplus, sigmoid"}},
      {"choice in capitals", Text("gate", "LOG"), {"gate: given 'LOG'"}},
      {"choice empty", Text("gate", ""), {"gate: given ''"}},
      {"choice as number", Int("gate", 0), {"gate: given 0"}},
      {"choice as bool", Attr("gate", false), {"gate: given false"}},
      {"window of zero", Ints("window", {0, 7}), {"window: given [0, 7]", ">= 1"}},
      {"window below zero", Ints("window", {7, -7}), {"window: given [7, -7]", ">= 1"}},
      {"window of one", Ints("window", {7}), {"window", "one size for each side"}},
      {"window of three", Ints("window", {7, 7, 7}), {"window", "one size for each side"}},
      {"window as one number", Int("window", 7), {"window", "one size for each side"}},
      {"window empty", Ints("window", {}), {"window", "one size for each side"}},
      {"window of fractions",
       Attr("window", std::vector<double>{7.5, 7}),
       {"window: given [7.5, 7]", "int[]"}},
      {"window of bools",
       Attr("window", std::vector<bool>{true, true}),
       {"window: given [true, true]", "int[]"}},
      {"window as bool", Attr("window", true), {"window: given true", "int[]"}},
      {"window as fraction", Attr("window", 7.0), {"window: given 7", "int[]"}},
      {"flips of numbers", Ints("flips", {1, 0}), {"flips: given [1, 0]", "bool[]"}},
      {"weights of zero",
       Attr("weights", std::vector<double>{1, 0}),
       {"weights: given [1, 0]", "> 0"}},
      {"order too small", Int("order", 0), {"order: given 0", ">= 1", "<= 4"}},
      {"order too large", Int("order", 5), {"order: given 5", "<= 4"}},
      {"order far too large",
       Int("order", std::numeric_limits<int64_t>::max()),
       {"order: given 9223372036854775807"}},
      {"order as fraction", Attr("order", 2.5), {"order: given 2.5", "int"}},
      {"order as text", Text("order", "2"), {"order: given '2'", "int"}},
      {"order as bool", Attr("order", true), {"order: given true", "int"}},
      {"flag as number", Int("return_lse", 1), {"return_lse: given 1", "bool"}},
      {"flag as text", Text("return_lse", "true"), {"return_lse: given 'true'", "bool"}},
      {"optional attribute out of bounds", Int("chunk", 0), {"chunk: given 0", ">= 1"}},
      {"label as number", Int("label", 7), {"label: given 7", "string"}},
      // Outputs.
      {"unknown output", Outputs({"o", "p"}), {"outputs: given 'p'", "final_state"}},
      {"input as output", Outputs({"q"}), {"outputs: given 'q'"}},
      {"output without a name", Outputs({""}), {"outputs: given ''"}},
      {"output twice", Outputs({"o", "o"}), {"o: given twice"}},
      {"too many outputs",
       Outputs(std::vector<std::string>(33, "o")),
       {"outputs: given 33", "at most 32"}},
      {"output name of a megabyte",
       Outputs({std::string(1 << 20, 'x')}),
       {"outputs: given", "1048576 bytes"}},
  };
}

std::vector<Mistake> SelectMistakes() {
  return {
      {"no height", NoAttr("height"), {"height: missing", "int"}},
      {"no attributes", Both(NoAttr("height"), NoAttr("width")), {"missing", "int"}},
      {"grid of another size",
       Int("width", 3),
       {"height=2", "width=3", "N=4", "the grid has N tokens"}},
      {"grid that overflows",
       Both(Int("height", kHuge), Int("width", 4)),
       {"height=4611686018427387904", "the grid has N tokens"}},
      {"negative grid", Both(Int("height", -2), Int("width", -2)), {"given -2", ">= 1"}},
      {"index beyond the end", Index(4), {"index: given 4", "0 to 3"}},
      {"index far beyond", Index(std::numeric_limits<int32_t>::max()), {"index: given 2147483647"}},
      {"index below zero", Index(-1), {"index: given -1", "0 to 3"}},
      {"float index", Sized("index", {1, 4, 2}), {"index: given float32", "int32 or int64"}},
      {"bool index",
       Sized("index", {1, 4, 2}, DType::kBool),
       {"index: given bool", "int32 or int64"}},
      {"index of another length",
       Sized("index", {1, 3, 2}, DType::kInt64),
       {"index: given [1,3,2]", "N=4"}},
      {"mask as float", Sized("mask", {4, 2}), {"mask: given float32", "bool"}},
      {"mask as int32", Sized("mask", {4, 2}, DType::kInt32), {"mask: given int32", "bool"}},
      {"mask of another width", Sized("mask", {4, 3}, DType::kBool), {"mask: given [4,3]", "R=2"}},
      {"mask of rank 4", Sized("mask", {1, 1, 4, 2}, DType::kBool), {"mask: given [1,1,4,2]"}},
      {"mask with a byte of 2",
       [](TestCall& c) { c.inputs["mask"].data[5] = 2; },
       {"mask: given the byte 2 at 5", "0 or 1"}},
      {"mask with a byte of 255",
       [](TestCall& c) { c.inputs["mask"].data[0] = '\xff'; },
       {"mask: given the byte 255 at 0"}},
      {"packed where it cannot be", Offsets({0, 4}), {"cu_seqlens: given", "nearest"}},
      {"state where there is none", Sized("initial_state", {1}), {"initial_state: given"}},
  };
}

// ---- Mistakes of the native protocol alone ----------------------------------------------------

struct NativeMistake {
  const char* name;
  std::function<void(v1::EvaluateRequest&)> edit;
  std::vector<std::string> mentions;
};

v1::Tensor& In(v1::EvaluateRequest& r, const char* name) { return (*r.mutable_inputs())[name]; }
v1::AttributeValue& At(v1::EvaluateRequest& r, const char* name) {
  return (*r.mutable_attributes())[name];
}

std::vector<NativeMistake> NativeMistakes() {
  using R = v1::EvaluateRequest;
  return {
      {"conditional output without its condition",
       [](R& r) {
         r.add_outputs("o");
         r.add_outputs("lse");
       },
       {"lse: given in outputs", "return_lse"}},
      {"no dtype", [](R& r) { In(r, "q").clear_dtype(); }, {"q: given dtype 0", "FLOAT32"}},
      {"dtype from the future",
       [](R& r) { In(r, "q").set_dtype(static_cast<v1::DataType>(99)); },
       {"q: given dtype 99"}},
      {"negative dtype",
       [](R& r) { In(r, "q").set_dtype(static_cast<v1::DataType>(-1)); },
       {"q: given dtype -1"}},
      {"empty tensor message", [](R& r) { In(r, "q").Clear(); }, {"q: given dtype 0"}},
      {"attribute without a value", [](R& r) { At(r, "scale"); }, {"scale: given no value"}},
      {"attribute with an empty list",
       [](R& r) { At(r, "window").mutable_int_list(); },
       {"window", "one size for each side"}},
      {"list for a number",
       [](R& r) { At(r, "order").mutable_int_list()->add_values(1); },
       {"order: given [1]", "int"}},
      {"list for a text",
       [](R& r) { At(r, "gate").mutable_int_list()->add_values(1); },
       {"gate: given [1]"}},
      {"list of NaN",
       [](R& r) { At(r, "weights").mutable_float_list()->add_values(kNaN); },
       {"weights: given", "finite"}},
      {"JSON text for a list",
       [](R& r) { At(r, "window").set_string_value("[7, 7]"); },
       {"window: given '[7, 7]'", "int[]"}},
      {"priority of 3", [](R& r) { r.set_priority(3); }, {"priority: given 3", "0 to 2"}},
      {"priority of 2^32", [](R& r) { r.set_priority(~0u); }, {"priority: given 4294967295"}},
      {"request id of a megabyte",
       [](R& r) { r.set_request_id(std::string(1 << 20, 'i')); },
       {"request_id: given 1048576 bytes", "256"}},
  };
}

// ---- Mistakes of the Open Inference Protocol alone --------------------------------------------

struct InferenceMistake {
  const char* name;
  std::function<void(inference::ModelInferRequest&)> edit;
  std::vector<std::string> mentions;
  StatusCode code = StatusCode::INVALID_ARGUMENT;
};

using Infer = inference::ModelInferRequest;

inference::InferParameter& Param(Infer& r, const char* name) {
  return (*r.mutable_parameters())[name];
}
std::function<void(Infer&)> Json(const char* name, const std::string& text) {
  return [=](Infer& r) { Param(r, name).set_string_param(text); };
}
// Typed instead of raw contents: fp32 zeros for each input (k, q, v).
void Typed(Infer& r) {
  for (int i = 0; i < r.inputs_size(); ++i) {
    auto& contents = *r.mutable_inputs(i)->mutable_contents();
    for (size_t n = 0; n < r.raw_input_contents(i).size() / 4; ++n) contents.add_fp32_contents(0);
  }
  r.clear_raw_input_contents();
}
std::function<void(Infer&)> TypedBut(const std::function<void(Infer::InferInputTensor&)>& edit) {
  return [=](Infer& r) {
    Typed(r);
    edit(*r.mutable_inputs(1));  // q
  };
}

std::vector<InferenceMistake> InferenceMistakes() {
  const std::string expected_list = "a list as JSON text";
  return {
      // Models and versions.
      {"version 2",
       [](Infer& r) { r.set_model_version("2"); },
       {"version: given '2'", "'1'"},
       StatusCode::NOT_FOUND},
      {"version 01",
       [](Infer& r) { r.set_model_version("01"); },
       {"version: given '01'"},
       StatusCode::NOT_FOUND},
      {"version of text",
       [](Infer& r) { r.set_model_version("latest"); },
       {"'latest'"},
       StatusCode::NOT_FOUND},
      {"prefix alone",
       [](Infer& r) { r.set_model_name("op."); },
       {"unknown operator ''"},
       StatusCode::NOT_FOUND},
      {"another prefix",
       [](Infer& r) { r.set_model_name("lm.toy_recurrence"); },
       {"lm.toy_recurrence"},
       StatusCode::NOT_FOUND},
      {"prefix twice",
       [](Infer& r) { r.set_model_name("op.op.toy_recurrence"); },
       {"op.toy_recurrence"},
       StatusCode::NOT_FOUND},
      {"id of a megabyte",
       [](Infer& r) { r.set_id(std::string(1 << 20, 'i')); },
       {"id: given 1048576 bytes"}},
      // Raw and typed contents.
      {"raw contents missing one",
       [](Infer& r) { r.mutable_raw_input_contents()->RemoveLast(); },
       {"raw_input_contents: given 2 entries", "expected 3"}},
      {"raw contents one too many",
       [](Infer& r) { r.add_raw_input_contents("x"); },
       {"raw_input_contents: given 4 entries", "expected 3"}},
      {"raw contents without inputs",
       [](Infer& r) { r.clear_inputs(); },
       {"raw_input_contents: given 3 entries", "expected 0"}},
      {"neither raw nor typed",
       [](Infer& r) { r.clear_raw_input_contents(); },
       {"k: given 0 fp32_contents", "12"}},
      {"raw and typed",
       [](Infer& r) { r.mutable_inputs(1)->mutable_contents()->add_fp32_contents(0); },
       {"q: given contents beside raw_input_contents"}},
      {"raw and empty typed",
       [](Infer& r) { r.mutable_inputs(1)->mutable_contents(); },
       {"q: given contents beside raw_input_contents"}},
      {"one number less",
       TypedBut([](auto& q) { q.mutable_contents()->mutable_fp32_contents()->RemoveLast(); }),
       {"q: given 23 fp32_contents", "24"}},
      {"one number more",
       TypedBut([](auto& q) { q.mutable_contents()->add_fp32_contents(0); }),
       {"q: given 25 fp32_contents", "24"}},
      {"contents of one input missing",
       TypedBut([](auto& q) { q.clear_contents(); }),
       {"q: given 0 fp32_contents"}},
      {"two lists",
       TypedBut([](auto& q) { q.mutable_contents()->add_fp64_contents(0); }),
       {"q: given fp64_contents for FP32"}},
      {"another list",
       TypedBut([](auto& q) {
         q.clear_contents();
         for (int i = 0; i < 24; ++i) q.mutable_contents()->add_int_contents(0);
       }),
       {"q: given int_contents for FP32"}},
      {"unsigned list",
       TypedBut([](auto& q) { q.mutable_contents()->add_uint_contents(0); }),
       {"q: given uint_contents"}},
      {"unsigned 64-bit list",
       TypedBut([](auto& q) { q.mutable_contents()->add_uint64_contents(0); }),
       {"q: given uint64_contents"}},
      {"text list",
       TypedBut([](auto& q) { q.mutable_contents()->add_bytes_contents("x"); }),
       {"q: given bytes_contents"}},
      {"FP16 as numbers",
       TypedBut([](auto& q) { q.set_datatype("FP16"); }),
       {"q: given fp32_contents for FP16", "raw_input_contents"}},
      {"BF16 as numbers",
       TypedBut([](auto& q) { q.set_datatype("BF16"); }),
       {"q: given fp32_contents for BF16", "raw_input_contents"}},
      {"BF16 without contents",
       TypedBut([](auto& q) {
         q.set_datatype("BF16");
         q.clear_contents();
       }),
       {"q: given no contents", "raw_input_contents"}},
      {"typed with a negative size",
       TypedBut([](auto& q) { q.set_shape(1, -3); }),
       {"q: given shape [1,-3,2,4]"}},
      {"typed with an overflowing shape",
       TypedBut([](auto& q) {
         for (int i = 0; i < 4; ++i) q.set_shape(i, k31);
       }),
       {"q: given shape", "elements"}},
      // Types and names of tensors.
      {"datatype missing",
       [](Infer& r) { r.mutable_inputs(1)->clear_datatype(); },
       {"q: given datatype ''", "FP32"}},
      {"datatype in small letters",
       [](Infer& r) { r.mutable_inputs(1)->set_datatype("fp32"); },
       {"q: given datatype 'fp32'"}},
      {"datatype of NumPy",
       [](Infer& r) { r.mutable_inputs(1)->set_datatype("float32"); },
       {"q: given datatype 'float32'"}},
      {"datatype of the configuration",
       [](Infer& r) { r.mutable_inputs(1)->set_datatype("TYPE_FP32"); },
       {"TYPE_FP32"}},
      {"text tensor",
       [](Infer& r) { r.mutable_inputs(1)->set_datatype("BYTES"); },
       {"q: given datatype 'BYTES'"}},
      {"unsigned tensor",
       [](Infer& r) { r.mutable_inputs(1)->set_datatype("UINT8"); },
       {"q: given datatype 'UINT8'"}},
      {"datatype of a megabyte",
       [](Infer& r) { r.mutable_inputs(1)->set_datatype(std::string(1 << 20, 'F')); },
       {"q: given datatype", "1048576 bytes"}},
      {"input twice",
       [](Infer& r) {
         *r.add_inputs() = r.inputs(1);
         r.add_raw_input_contents(r.raw_input_contents(1));
       },
       {"q: given twice"}},
      {"input in shared memory",
       [](Infer& r) {
         (*r.mutable_inputs(1)->mutable_parameters())["shared_memory_region"].set_string_param("x");
       },
       {"q: given shared_memory_region", "not offered"},
       StatusCode::UNIMPLEMENTED},
      {"output in shared memory",
       [](Infer& r) {
         auto& output = *r.add_outputs();
         output.set_name("o");
         (*output.mutable_parameters())["shared_memory_region"].set_string_param("x");
       },
       {"o: given shared_memory_region"},
       StatusCode::UNIMPLEMENTED},
      {"classification",
       [](Infer& r) {
         auto& output = *r.add_outputs();
         output.set_name("o");
         (*output.mutable_parameters())["classification"].set_int64_param(3);
       },
       {"o: given classification"},
       StatusCode::UNIMPLEMENTED},
      {"parameter of an input",
       [](Infer& r) { (*r.mutable_inputs(1)->mutable_parameters())["scale"].set_double_param(1); },
       {"q: given the parameter 'scale'", "parameters of the request"}},
      // Attributes as parameters.
      {"attribute without a value", [](Infer& r) { Param(r, "scale"); }, {"scale: given no value"}},
      {"number as text", Json("scale", "1"), {"scale: given '1'", "float"}},
      {"integer beyond int64",
       [](Infer& r) { Param(r, "order").set_uint64_param(~0ull); },
       {"order: given 18446744073709551615"}},
      {"list not JSON", Json("window", "7, 7"), {"window: given '7, 7'", expected_list}},
      {"list empty text", Json("window", ""), {"window: given ''", expected_list}},
      {"list cut", Json("window", "[7, 7"), {"window", expected_list}},
      {"list with a stray comma", Json("window", "[7, 7,]"), {"window", expected_list}},
      {"list twice", Json("window", "[7, 7][7, 7]"), {"window", expected_list}},
      {"list with text after it", Json("window", "[7, 7] #"), {"window", expected_list}},
      {"list in Python", Json("window", "(7, 7)"), {"window", expected_list}},
      {"list as an object", Json("window", "{\"a\": 7}"), {"window", expected_list}},
      {"list as a number", Json("window", "7"), {"window", expected_list}},
      {"list as null", Json("window", "null"), {"window", expected_list}},
      {"list of null", Json("window", "[null, 7]"), {"window", expected_list}},
      {"list of texts", Json("window", "[\"7\", \"7\"]"), {"window", expected_list}},
      {"list of lists", Json("window", "[[7], [7]]"), {"window", expected_list}},
      {"list mixed", Json("window", "[7, true]"), {"window", expected_list}},
      {"list of NaN", Json("weights", "[NaN]"), {"weights", expected_list}},
      {"list of infinity", Json("weights", "[1e999]"), {"weights", expected_list}},
      {"list of huge integers", Json("window", "[9223372036854775808, 7]"), {"window: given"}},
      {"list with an escape", Json("window", "[7, \"\\ud800\"]"), {"window", expected_list}},
      {"deep JSON", Json("window", std::string(100000, '[')), {"window", "100000 bytes"}},
      {"deep and closed JSON",
       Json("window", std::string(20000, '[') + std::string(20000, ']')),
       {"window", "40000 bytes"}},
      {"deep objects",
       Json("window",
            [] {
              std::string text;
              for (int i = 0; i < 10000; ++i) text += "{\"a\":";
              return text;
            }()),
       {"window"}},
      {"long JSON",
       Json("window", "[" + std::string(1 << 20, ' ') + "]"),
       {"window: given 1048578 bytes"}},
      // Reserved parameters.
      {"kernel as number",
       [](Infer& r) { Param(r, "attnd_kernel").set_int64_param(1); },
       {"attnd_kernel: given 1", "string"}},
      {"two kernels",
       [](Infer& r) {
         Param(r, "attnd_kernel").set_string_param("composed");
         Param(r, "kernel").set_string_param("other");
       },
       {"kernel: given", "one kernel"}},
      {"reserved name of ours",
       [](Infer& r) { Param(r, "attnd_speed").set_int64_param(1); },
       {"attnd_speed: given 1", "reserved"}},
      {"reserved name of the standard's server",
       [](Infer& r) { Param(r, "triton_something").set_bool_param(true); },
       {"triton_something: given true", "reserved"}},
      {"final response as text",
       [](Infer& r) { Param(r, "triton_enable_empty_final_response").set_string_param("true"); },
       {"triton_enable_empty_final_response", "bool"}},
      {"priority below zero",
       [](Infer& r) { Param(r, "priority").set_int64_param(-1); },
       {"priority: given -1"}},
      {"priority as text",
       [](Infer& r) { Param(r, "priority").set_string_param("1"); },
       {"priority: given '1'"}},
      {"timeout below zero",
       [](Infer& r) { Param(r, "timeout").set_int64_param(-1); },
       {"timeout: given -1", "microseconds"}},
      {"timeout as fraction",
       [](Infer& r) { Param(r, "timeout").set_double_param(0.5); },
       {"timeout: given 0.5", "microseconds"}},
      // Sequences.
      {"sequence that nobody started",
       [](Infer& r) { Param(r, "sequence_id").set_int64_param(5); },
       {"sequence_id: given 5", "sequence_start"}},
      {"named sequence that nobody started",
       [](Infer& r) { Param(r, "sequence_id").set_string_param("five"); },
       {"sequence_id: given", "five", "sequence_start"}},
      {"end of a sequence that nobody started",
       [](Infer& r) {
         Param(r, "sequence_id").set_uint64_param(6);
         Param(r, "sequence_end").set_bool_param(true);
       },
       {"sequence_id: given 6", "sequence_start"}},
      {"start without a sequence",
       [](Infer& r) { Param(r, "sequence_start").set_bool_param(true); },
       {"sequence_start: given without sequence_id"}},
      {"end without a sequence",
       [](Infer& r) { Param(r, "sequence_end").set_bool_param(true); },
       {"sequence_end: given without sequence_id"}},
      {"start of sequence 0",
       [](Infer& r) {
         Param(r, "sequence_id").set_int64_param(0);
         Param(r, "sequence_start").set_bool_param(true);
       },
       {"sequence_start: given without sequence_id"}},
      {"sequence id as fraction",
       [](Infer& r) { Param(r, "sequence_id").set_double_param(1.5); },
       {"sequence_id: given 1.5", "integer or a string"}},
      {"sequence id as bool",
       [](Infer& r) { Param(r, "sequence_id").set_bool_param(true); },
       {"sequence_id: given true"}},
      {"sequence id too long",
       [](Infer& r) { Param(r, "sequence_id").set_string_param(std::string(129, 's')); },
       {"sequence_id", "128"}},
      {"sequence start as number",
       [](Infer& r) {
         Param(r, "sequence_id").set_int64_param(7);
         Param(r, "sequence_start").set_int64_param(1);
       },
       {"sequence_start: given 1", "bool"}},
      {"state within a sequence",
       [](Infer& r) {
         Param(r, "sequence_id").set_int64_param(8);
         auto& state = *r.add_inputs();
         state.set_name("initial_state_n");
         state.set_datatype("FP32");
         state.add_shape(1);
         state.add_shape(2);
         r.add_raw_input_contents(std::string(8, '\0'));
       },
       {"initial_state_n: given within sequence 8", "sequence_start"}},
      {"failed start",
       [](Infer& r) {
         Param(r, "sequence_id").set_int64_param(9);
         Param(r, "sequence_start").set_bool_param(true);
         Param(r, "order").set_int64_param(0);
       },
       {"order: given 0"}},
  };
}

// ---- The test -----------------------------------------------------------------------------------

class MalformedTest : public RpcFixture {
 protected:
  MalformedTest() : RpcFixture({}, {.max_sequences = 16}) {}

  void ExpectRefused(const char* name, const grpc::Status& status, StatusCode code,
                     const std::vector<std::string>& mentions) {
    ++sent_;
    SCOPED_TRACE(name);
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    for (const std::string& text : mentions) {
      EXPECT_THAT(status.error_message(), HasSubstr(text));
    }
    EXPECT_LT(status.error_message().size(), 1000u);
    if (code == StatusCode::INVALID_ARGUMENT) {
      EXPECT_THAT(status.error_message(), HasSubstr("expected"));
    }
  }

  void SendShared(const TestCall& right, const std::vector<Mistake>& mistakes) {
    for (const Mistake& mistake : mistakes) {
      TestCall call = right;
      mistake.edit(call);
      v1::EvaluateResponse native;
      ExpectRefused(mistake.name, Evaluate(call.ToNative(), &native), mistake.code,
                    mistake.mentions);
      inference::ModelInferResponse standard;
      ExpectRefused(mistake.name, Infer(call.ToInference(), &standard), mistake.code,
                    mistake.mentions);
    }
  }

  void SendAll() {
    SendShared(RecurrenceCall(), RecurrenceMistakes());
    SendShared(SelectCall(), SelectMistakes());
    for (const NativeMistake& mistake : NativeMistakes()) {
      v1::EvaluateRequest request = RecurrenceCall().ToNative();
      mistake.edit(request);
      v1::EvaluateResponse response;
      ExpectRefused(mistake.name, Evaluate(request, &response), StatusCode::INVALID_ARGUMENT,
                    mistake.mentions);
    }
    for (const InferenceMistake& mistake : InferenceMistakes()) {
      inference::ModelInferRequest request = RecurrenceCall().ToInference();
      mistake.edit(request);
      inference::ModelInferResponse response;
      ExpectRefused(mistake.name, Infer(request, &response), mistake.code, mistake.mentions);
    }
  }

  void ExpectStillAnswers() {
    v1::EvaluateResponse native;
    const grpc::Status evaluated = Evaluate(RecurrenceCall().ToNative(), &native);
    EXPECT_TRUE(evaluated.ok()) << evaluated.error_message();
    inference::ModelInferResponse standard;
    const grpc::Status inferred = Infer(SelectCall().ToInference(), &standard);
    EXPECT_TRUE(inferred.ok()) << inferred.error_message();
    EXPECT_EQ(sequences_.usage().sequences, 0u);
  }

  // Of what is in use by this process's allocations, whatever the allocator keeps for later.
  static int64_t BytesInUse() {
    const struct mallinfo2 info = mallinfo2();
    return static_cast<int64_t>(info.uordblks + info.hblkhd);
  }

  int sent_ = 0;
};

TEST_F(MalformedTest, EveryMistakeIsRefusedAndNamed) {
  SendAll();
  EXPECT_GE(sent_, 200);
  RecordProperty("requests", sent_);
  ExpectStillAnswers();
}

TEST_F(MalformedTest, MemoryStaysFlat) {
#if defined(ATTND_SANITIZED)
  GTEST_SKIP() << "sanitizers keep freed memory";
#endif
  // What leaks grows in every round; what other threads hold at one moment does not, so that one
  // flat round of several acquits.
  constexpr int kRounds = 10;
  constexpr int64_t kPerRequest = 8;
  SendAll();  // Pools and tables fill.
  const int requests = sent_;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int round = 0; round < kRounds && least > kPerRequest * requests; ++round) {
    const int64_t before = BytesInUse();
    for (int i = 0; i < 3; ++i) SendAll();
    least = std::min(least, (BytesInUse() - before) / 3);
  }
  RecordProperty("grown_bytes_per_round", std::to_string(least));
  EXPECT_LE(least, kPerRequest * requests) << "a round of " << requests << " requests";
  ExpectStillAnswers();
}

TEST_F(MalformedTest, BytesThatAreNoMessage) {
  // A client of raw bytes, so that anything can be sent.
  const auto send = [this](const char* method, const std::string& bytes) {
    grpc::ClientContext context;
    const grpc::Slice slice(bytes);
    grpc::ByteBuffer request(&slice, 1), response;
    grpc::CompletionQueue queue;
    grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(channel_);
    auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag;
    bool ok;
    queue.Next(&tag, &ok);
    return status;
  };
  for (const char* method : {"/attnd.v1.Operators/Evaluate", "/attnd.v1.Operators/Compare",
                             "/inference.GRPCInferenceService/ModelInfer"}) {
    for (const std::string& bytes :
         {std::string("\xff\xff\xff"), std::string("\x0a\x7f"), std::string(1000, '\x0a'),
          std::string("\x0a\x02\xc3\x28")}) {  // The last: text that is not UTF-8.
      const grpc::Status status = send(method, bytes);
      EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << status.error_message();
      EXPECT_THAT(status.error_message(), HasSubstr("expected"));
    }
    const grpc::Status status = send(method, "");
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << status.error_message();
  }
  ExpectStillAnswers();
}

}  // namespace
}  // namespace attnd
