#include "service/rpc/testing/toy_operators.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/random_call.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

SchemaText RecurrenceSchema() {
  return {
      .id = "toy_recurrence",
      .paper = "none",
      .summary = "Running sum of values, for tests",
      .core = "linear_recurrent",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,T,HK,K]", "v: float[B,T,H,K]",
                 "g: float32[B,T,H,K]|[B,T,H]? ~logdecay  # has no effect",
                 "A_log: float32[H] if gate == 'softplus'", "dt_bias: float32[H]? if gate != 'log'",
                 "initial_state: float32[M,H,K]?", "initial_state_n: float32[M,H]?",
                 "cu_seqlens: int32[M+1]?"},
      .attributes = {"scale: float = 1/sqrt(K)  # multiplies q", "eps: float = 1e-6 >= 0",
                     "gate: {log, softplus, sigmoid} = log", "window: int[] = [7, 7] >= 1",
                     "flips: bool[] = [true]", "weights: float[] = [1.5] > 0",
                     "order: int = 1 >= 1 <= 4", "return_lse: bool = false", "chunk: int? >= 1",
                     "label: string = 'none'"},
      .outputs = {"o: float[B,T,H,K]", "lse: float32[B,T,H] if return_lse",
                  "final_state: float32[M,H,K]", "final_state_n: float32[M,H]"},
      .rules = {"H % HK == 0  # query heads are a multiple of key heads",
                "length(window) == 2  # one size for each side"},
  };
}

absl::Status ComposeRecurrence(Composer& c) {
  const Array v = c.In("v");
  const int64_t sequences = c.dim("M"), heads = c.dim("H"), size = c.dim("K");
  const Array state =
      c.has("initial_state") ? c.In("initial_state") : c.Zeros({sequences, heads, size});
  const Array count =
      c.has("initial_state_n") ? c.In("initial_state_n") : c.Zeros({sequences, heads});
  c.Out("o", c.In("q") * c.real("scale") + CumSum(v, 1) + state.Unsqueeze(1));
  if (c.flag("return_lse")) c.Out("lse", Sum(c.In("q"), 3).Select(3, 0));
  c.Out("final_state", state + Sum(v, 1).Select(1, 0));
  c.Out("final_state_n", count + static_cast<double>(c.dim("T")));
  return c.status();
}

SchemaText SelectSchema() {
  return {
      .id = "toy_select",
      .paper = "none",
      .summary = "Hands its input back, for tests",
      .core = "block_sparse",
      .inputs = {"q: float[B,N,H,K]", "index: int[B,N,R]", "mask: bool[N,R]|[B,N,R]?"},
      .attributes = {"height: int >= 1", "width: int >= 1"},
      .outputs = {"o: float[B,N,H,K]"},
      .rules = {"height * width == N  # the grid has N tokens"},
  };
}

absl::Status CheckSelect(const BoundCall& call) {
  const Tensor& index = call.input("index");
  for (int64_t i = 0; i < index.num_elements(); ++i) {
    const int64_t value = index.data<int64_t>()[i];
    if (value >= 0 && value < call.dim("N")) continue;
    return absl::InvalidArgumentError(absl::StrCat("toy_select: index: given ", value, " at ", i,
                                                   ", expected 0 to ", call.dim("N") - 1));
  }
  return absl::OkStatus();
}

void DrawSelect(RandomSource& source) {
  source.Attribute("height", int64_t{2});
  source.Attribute("width", int64_t{3});
  const int64_t count = source.Dim("B", 1) * source.Dim("N", 6) * source.Dim("R", 2);
  std::vector<int32_t> index(static_cast<size_t>(count));
  for (int32_t& i : index) i = static_cast<int32_t>(source.Uniform(0, source.Dim("N", 6) - 1));
  source.request().inputs.Set(
      "index",
      HostTensor<int32_t>({source.Dim("B", 1), source.Dim("N", 6), source.Dim("R", 2)}, index));
}

}  // namespace

void RegisterToyOperators(Registry& registry) {
  registry.Add(RecurrenceSchema(), ComposeRecurrence);
  Operator& select = registry.Add(SelectSchema(), [](Composer& c) {
    c.Out("o", c.In("q"));
    return c.status();
  });
  select.check = CheckSelect;
  select.random = DrawSelect;
}

}  // namespace attnd
