// What every operator and kernel promises: exactness, the same bits however a call is made,
// causality, states.
#include "kernels/ops/operators_test.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/batch.h"

namespace attnd::testing {
namespace {

constexpr int kRandomCases = 12;

TEST_P(OperatorTest, EveryKernelAgreesWithTheFloat64Definition) {
  const std::vector<DType> types = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
  std::vector<int> taken(kernels().size(), 0);
  for (int i = 0; i < kRandomCases; ++i) {
    for (DType dtype : types) {
      CallRequest request;
      Evaluation reference;
      for (size_t k = 0; k < kernels().size(); ++k) {
        RandomOptions options = Options(i, kernels()[k]);
        options.dtype = dtype;
        // Kernels that take most calls share one.
        const bool shares =
            k > 0 && ExampleOf(kernels()[k]) == nullptr && ExampleOf(kernels()[k - 1]) == nullptr;
        if (!shares) {
          request = RandomFor(kernels()[k], options);
          reference = Evaluation();
        }
        if (!Takes(request, kernels()[k])) continue;
        if (reference.outputs.empty()) reference = RunReference(request);
        ++taken[k];
        const Evaluation result = RunCall(request, backend());
        EXPECT_TRUE(Close(op().spec, dtype, result, reference))
            << "seed " << options.seed << " case " << i;
      }
    }
  }
  for (size_t k = 0; k < kernels().size(); ++k) {
    EXPECT_GT(taken[k], 0) << kernels()[k] << " declined every random call";
  }
}

TEST_P(OperatorTest, Float64IsExactOnTheCpuAndRefusedElsewhere) {
  RandomOptions options = Options(0, "composed");
  options.dtype = DType::kFloat64;
  const CallRequest request = Random(op().spec.id(), options);
  const absl::StatusOr<Evaluation> result = Evaluate(op(), backend(), request);
  if (backend().device() == Device::kCpu) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(Close(op().spec, DType::kFloat64, *result, RunReference(request)));
  } else {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_P(OperatorTest, RepeatsBitForBit) {
  for (int i = 0; i < 4; ++i) {
    for (const std::string& kernel : kernels()) {
      CallRequest request = RandomFor(kernel, Options(i, kernel));
      if (!Takes(request, kernel)) continue;
      const Evaluation first = RunCall(request, backend());
      EXPECT_TRUE(SameBits(RunCall(request, backend()), first)) << kernel << " case " << i;
    }
  }
}

TEST_P(OperatorTest, StridedViewsGiveTheSameBits) {
  for (const std::string& kernel : kernels()) {
    CallRequest request = RandomFor(kernel, Options(1, kernel));
    if (!Takes(request, kernel)) continue;
    CallRequest views = request;
    for (auto& [name, tensor] : views.inputs) tensor = AsStridedView(tensor);
    views.kernel = kernel;
    EXPECT_TRUE(SameBits(RunCall(views, backend()), RunCall(request, backend()))) << kernel;
  }
}

TEST_P(OperatorTest, NoTokensGiveEmptyOutputsAndTheStateBack) {
  if (op().spec.FindInput("cu_seqlens") == nullptr) GTEST_SKIP() << "not a sequence operator";
  for (const std::string& kernel : kernels()) {
    RandomOptions options = Options(0, kernel);
    for (const Port& port : op().spec.inputs()) {
      if (!FinalStateName(port.name).empty()) options.with.push_back(port.name);
    }
    options.dims.Set("T", 0);
    CallRequest request = RandomFor(kernel, options);
    if (!Takes(request, kernel)) continue;
    const Evaluation result = RunCall(request, backend());
    EXPECT_EQ(MainOutput(result).num_elements(), 0) << kernel;
    for (const auto& [name, tensor] : request.inputs) {
      const std::string final_name = FinalStateName(name);
      if (final_name.empty()) continue;
      const Tensor* state = result.outputs.Find(final_name);
      if (state == nullptr) continue;
      EXPECT_EQ(RelativeError(*state, tensor), 0) << kernel << " " << name;
    }
  }
}

TEST_P(OperatorTest, SplitCallsEqualTheWhole) {
  if (!op().spec.has_state()) GTEST_SKIP() << "no state";
  if (op().spec.FindAttribute("splits") != nullptr) {
    GTEST_SKIP() << "an attribute counts the tokens; tested beside the operator";
  }
  int tested = 0;
  for (int i = 0; i < kRandomCases; ++i) {
    for (const std::string& kernel : kernels()) {
      RandomOptions options = Options(i, kernel);
      options.packed = false;
      const int64_t tokens = 3 + 37 * (i % 5);
      options.dims.Set("T", tokens);
      CallRequest whole = RandomFor(kernel, options);
      if (!Takes(whole, kernel)) continue;
      const Evaluation expected = RunCall(whole, backend());
      const bool carries =
          std::any_of(expected.outputs.begin(), expected.outputs.end(), [](const auto& entry) {
            return absl::string_view(entry.first).substr(0, 6) == "final_";
          });
      if (!carries) continue;
      ++tested;
      // The second call starts where the first ended; a single last token is a decode step.
      const int64_t cut = i % 2 == 0 ? tokens - 1 : 1 + tokens / 3;
      const Evaluation first = RunCall(CutTokens(op(), whole, 0, cut), backend());
      const Evaluation second =
          RunCall(WithStates(op(), CutTokens(op(), whole, cut, tokens - cut), first), backend());
      const double tolerance = 4 * Tolerance(op().spec, options.dtype);
      for (const auto& [name, tensor] : expected.outputs) {
        const Port& port = *op().spec.FindOutput(name);
        if (port.AxisOf("T") == 1) {
          EXPECT_LE(RelativeError(Output(first, name), tensor.Slice(1, 0, cut)), tolerance)
              << kernel << " " << name;
          EXPECT_LE(RelativeError(Output(second, name), tensor.Slice(1, cut, tokens - cut)),
                    tolerance)
              << kernel << " " << name << " seed " << options.seed;
        } else {
          EXPECT_LE(RelativeError(Output(second, name), tensor), tolerance)
              << kernel << " " << name << " seed " << options.seed;
        }
      }
    }
  }
  EXPECT_GT(tested, 0) << "no random call handed a state on";
}

TEST_P(OperatorTest, PackedSequencesEqualSeparateCalls) {
  if (!op().spec.packs()) GTEST_SKIP() << "takes no cu_seqlens";
  if (!op().spec.text().packed_by_sequence)
    GTEST_SKIP() << "has a packed layout of its own, tested beside it";
  for (int i = 0; i < 4; ++i) {
    for (const std::string& kernel : kernels()) {
      RandomOptions options = Options(i, kernel);
      options.packed = true;
      CallRequest request = RandomFor(kernel, options);
      if (!Takes(request, kernel)) continue;
      const Evaluation packed = RunCall(request, backend());
      const BoundCall call = BindAndCheck(op(), request).value();
      for (const Sequence& sequence : call.sequences()) {
        const BoundCall alone = call.SequenceCall(sequence);
        CallRequest one{request.op, alone.inputs(), request.attributes, kernel};
        const Evaluation expected = RunCall(one, backend());
        for (const auto& [name, tensor] : expected.outputs) {
          const Tensor& whole = Output(packed, name);
          const Port& port = *op().spec.FindOutput(name);
          const bool tokens = port.AxisOf("T") == 1 || port.AxisOf("S") == 1;
          const Tensor part = tokens ? whole.Slice(1, sequence.begin, sequence.length)
                                     : whole.Slice(0, sequence.state, 1);
          EXPECT_TRUE(BitEqual(part, tensor)) << kernel << " " << name << " seed " << options.seed
                                              << " off by " << RelativeError(part, tensor);
        }
      }
    }
  }
}

// The request with tokens from `from` on overwritten in every floating input along T or S: by
// `value`, or by copies of the first token, so that a gate stays a gate.
CallRequest WithOtherTail(const Operator& op, const CallRequest& request, int64_t from,
                          int64_t tokens, std::optional<double> value) {
  CallRequest changed = request;
  const BoundCall call = BindAndCheck(op, request).value();
  for (auto& [name, tensor] : changed.inputs) {
    const int axis = op.spec.FindInput(name)->AxisOf("T", call.alternative(name));
    const int key_axis = op.spec.FindInput(name)->AxisOf("S", call.alternative(name));
    if ((axis != 1 && key_axis != 1) || !IsFloating(tensor.dtype())) continue;
    tensor = CopyOf(tensor);
    const Tensor tail = tensor.Slice(1, tensor.dim(1) - (tokens - from), tokens - from);
    if (value.has_value()) {
      Cpu().Fill(*value, tail);
      continue;
    }
    for (int64_t t = 0; t < tail.dim(1); ++t) {
      Cpu().Copy(tensor.Slice(1, 0, 1), tail.Slice(1, t, 1));
    }
  }
  return changed;
}

TEST_P(OperatorTest, LaterTokensDoNotChangeEarlierOutputs) {
  if (!op().causal) GTEST_SKIP() << "never causal";
  const std::optional<double> tails[] = {std::nullopt, std::numeric_limits<double>::infinity(),
                                         std::numeric_limits<double>::quiet_NaN()};
  int tested = 0;
  for (int i = 0; i < kRandomCases; ++i) {
    for (const std::string& kernel : kernels()) {
      RandomOptions options = Options(i, kernel);
      options.packed = false;
      if (op().spec.FindAttribute("causal") != nullptr) options.attributes.Set("causal", true);
      const int64_t tokens = 70 + i;
      options.dims.Set("T", tokens);
      CallRequest request = RandomFor(kernel, options);
      const BoundCall call = BindAndCheck(op(), request).value();
      if (!op().causal(call) || !Takes(request, kernel)) continue;
      const int64_t from = 1 + (i * 13) % (tokens - 1);
      for (const std::optional<double>& tail : tails) {
        CallRequest changed = WithOtherTail(op(), request, from, tokens, tail);
        changed.kernel = kernel;
        ++tested;
        const Tensor before = MainOutput(RunCall(request, backend())).Slice(1, 0, from);
        const Tensor after = MainOutput(RunCall(changed, backend())).Slice(1, 0, from);
        EXPECT_TRUE(BitEqual(before, after))
            << kernel << " seed " << options.seed << " from " << from << ", later tokens "
            << (tail.has_value() ? absl::StrCat(*tail) : "others");
      }
    }
  }
  EXPECT_GT(tested, 0) << "no random call was causal";
}

TEST_P(OperatorTest, ACallsBitsDoNotDependOnItsBatch) {
  for (const std::string& kernel : kernels()) {
    // Several calls that differ in data (and in T where the operator packs), otherwise alike.
    std::vector<BoundCall> calls;
    std::string key;
    bool keys_follow = false;  // As many keys as queries, in further calls too.
    RandomOptions options = Options(0, kernel);
    options.packed = false;
    // A kernel for long sequences may walk one otherwise alone than among others.
    const int64_t longest = ExampleOf(kernel) != nullptr ? 1500 : 90;
    for (int i = 0; i < 5; ++i) {
      CallRequest request = Random(op().spec.id(), options);
      if (!Takes(request, kernel)) break;
      BoundCall call = BindAndCheck(op(), request).value();
      const std::string this_key = BatchKey(call, kernel);
      if (key.empty()) {
        if (this_key.empty()) break;
        key = this_key;
        // Further draws keep this one's sizes.
        for (const auto& [symbol, size] : call.dims()) {
          const bool derived =
              std::any_of(op().spec.derived().begin(), op().spec.derived().end(),
                          [&s = symbol](const Derived& d) { return d.symbol == s; });
          if (!derived && symbol != "M") options.dims.Set(symbol, size);
        }
        options.optional_inputs = 1;
        for (const Port& port : op().spec.inputs()) {
          if (port.optional && !call.has(port.name)) options.without.push_back(port.name);
        }
        options.attributes = request.attributes;
        keys_follow = call.dims().contains("S") && call.dim("S") == call.dim("T");
      }
      if (this_key == key) calls.push_back(std::move(call));
      options.seed += 1;
      if (op().spec.packs() && op().spec.text().packed_by_sequence &&
          op().spec.FindInput("k_mask") == nullptr) {
        const int64_t tokens = 1 + (571 * i + longest - 60) % longest;
        if (keys_follow) options.dims.Set("S", tokens);
        options.dims.Set("T", tokens);
      }
    }
    if (calls.size() < 2) continue;
    std::vector<const BoundCall*> pointers;
    pointers.reserve(calls.size());
    for (const BoundCall& call : calls) pointers.push_back(&call);
    const absl::StatusOr<BoundCall> packed = Pack(pointers);
    ASSERT_TRUE(packed.ok()) << packed.status();
    const absl::StatusOr<Evaluation> together = EvaluateBound(op(), backend(), *packed, kernel);
    ASSERT_TRUE(together.ok()) << together.status();
    const auto parts = Unpack(pointers, together->outputs);
    ASSERT_TRUE(parts.ok()) << parts.status();
    for (size_t i = 0; i < calls.size(); ++i) {
      const Evaluation alone = EvaluateBound(op(), backend(), calls[i], kernel).value();
      for (const auto& [name, tensor] : alone.outputs) {
        EXPECT_TRUE(BitEqual(*(*parts)[i].Find(name), tensor))
            << kernel << " " << name << " call " << i << " off by "
            << RelativeError(*(*parts)[i].Find(name), tensor);
      }
    }
  }
}

TEST_P(OperatorTest, StrongGatesAgreeWithTheFloat64Definition) {
  const Port* g = op().spec.FindInput("g");
  if (g == nullptr || g->distribution != "logdecay") GTEST_SKIP() << "no log decays per token";
  int tested = 0;
  for (int i = 0; i < 6; ++i) {
    for (const std::string& kernel : kernels()) {
      RandomOptions options = Options(i, kernel);
      options.with.push_back("g");
      options.dims.Set("T", 130 + 97 * i);
      CallRequest request = RandomFor(kernel, options);
      // Gates that forget everything, nearly everything, a lot and nothing, among mild ones.
      Tensor* gates = request.inputs.Find("g");
      ASSERT_NE(gates, nullptr);
      *gates = CopyOf(*gates);
      constexpr float kGates[] = {-std::numeric_limits<float>::infinity(), -1e4f, -100, 0};
      for (int64_t at = i; at < gates->num_elements(); at += 7) {
        gates->data<float>()[at] = kGates[at / 7 % 4];
      }
      if (!Takes(request, kernel)) continue;
      ++tested;
      EXPECT_TRUE(
          Close(op().spec, options.dtype, RunCall(request, backend()), RunReference(request)))
          << "seed " << options.seed << " case " << i;
    }
  }
  EXPECT_GT(tested, 0);
}

TEST_P(OperatorTest, NanInputsPropagateWithoutHarm) {
  for (const std::string& kernel : kernels()) {
    RandomOptions options = Options(0, kernel);
    options.optional_inputs = 0;  // A mask may rightly hide the NaN.
    CallRequest request = RandomFor(kernel, options);
    // A whole input: single rows may have nothing to attend.
    for (auto& [name, tensor] : request.inputs) {
      if (op().spec.FindInput(name)->type != PortType::kFloat) continue;
      tensor = CopyOf(tensor);
      Cpu().Fill(std::numeric_limits<double>::quiet_NaN(), tensor);
      break;
    }
    if (!Takes(request, kernel)) continue;
    // Choices are integers: an operator that only chooses has nowhere to put it.
    bool floating = false, propagates = false;
    for (const auto& [name, tensor] : RunCall(request, backend()).outputs) {
      if (!IsFloating(tensor.dtype())) continue;
      const std::vector<double> o = ToDoubles(tensor);
      floating = true;
      propagates |= std::any_of(o.begin(), o.end(), [](double x) { return std::isnan(x); });
    }
    EXPECT_EQ(propagates, floating) << kernel;
  }
}

INSTANTIATE_FOR_ALL_OPERATORS(OperatorTest);

}  // namespace
}  // namespace attnd::testing
