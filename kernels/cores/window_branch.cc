#include "kernels/cores/window_branch.h"

#include <utility>

namespace attnd {

std::vector<std::string> RingInputs(std::vector<std::string> own) {
  own.insert(own.end(), {"initial_state_k: float[M,C,HK,K]?  # ring: slot p mod C holds token p",
                         "initial_state_v: float[M,C,HV,V]?",
                         "initial_state_pos: int64[M]?  # "
                         "tokens seen so far"});
  return own;
}

std::vector<std::string> WindowInputs(std::vector<std::string> own) {
  own.insert(own.end(), {"q_rope: float[B,T,H,K]?  # rotated, for the window; q when absent",
                         "k_rope: float[B,T,HK,K]?  # rotated, for the window; k when absent"});
  return RingInputs(std::move(own));
}

std::vector<std::string> WindowOutputs(std::vector<std::string> own) {
  own.insert(own.end(), {"final_state_k: float[M,C,HK,K]", "final_state_v: float[M,C,HV,V]",
                         "final_state_pos: int64[M]"});
  return own;
}

std::vector<std::string> RingRules(std::vector<std::string> own) {
  own.insert(own.end(), {"has(initial_state_k) == has(initial_state_v)  # all of the ring, or none "
                         "of it",
                         "has(initial_state_k) == has(initial_state_pos)  # all of the ring, or "
                         "none of it"});
  return own;
}

std::vector<std::string> WindowRules(std::vector<std::string> own) {
  own.push_back("has(q_rope) == has(k_rope)  # q_rope and k_rope together");
  return RingRules(std::move(own));
}

PartCall WindowBranch(Composer& c, int64_t left) {
  PartCall window(c, "softmax_attention");
  const bool rotated = c.call().spec().FindInput("q_rope") != nullptr && c.has("q_rope");
  window.In("q", c.In(rotated ? "q_rope" : "q")).In("k", c.In(rotated ? "k_rope" : "k")).Pass("v");
  window.Pass("initial_state_k").Pass("initial_state_v").Pass("initial_state_pos");
  window.Set("causal", true).Set("cache", std::string("ring")).Set("window_left", left);
  window.PassAttribute("scale");
  return window;
}

void WindowStates(Composer& c, PartCall& window) {
  for (const char* state : {"final_state_k", "final_state_v", "final_state_pos"}) {
    c.Out(state, window.Out(state));
  }
}

void DrawWindow(RandomSource& source, int64_t slots) {
  if (source.spec().FindInput("q_rope") != nullptr) source.Together({"q_rope", "k_rope"});
  const bool ring = source.Together({"initial_state_k", "initial_state_v", "initial_state_pos"});
  const int64_t heads = source.Dim("HK", source.Uniform(1, 2));
  const int64_t values = source.Dim("HV", source.Uniform(1, 2));
  source.Dim("H", heads * values * source.Uniform(1, 2));
  if (!ring) return;
  const int64_t B = source.Dim("B", source.Uniform(1, 3));
  std::vector<int64_t> seen(
      static_cast<size_t>(source.Dim("M", source.options().packed ? source.Uniform(1, 4) : B)));
  for (int64_t& tokens : seen) tokens = source.Uniform(0, 3 * slots);
  source.request().inputs.Set("initial_state_pos",
                              HostTensor<int64_t>({static_cast<int64_t>(seen.size())}, seen));
}

}  // namespace attnd
