#include "clients/cli/decode_options.h"

namespace attnd::cli {

void DecodeOptions::AddTo(CLI::App& command) {
  command.add_option("--max-tokens", max_tokens_, "Tokens to sample at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--temperature", temperature_, "0: always the most probable token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--top-k", top_k_, "Only so many of the most probable tokens; 0: all");
  command.add_option("--top-p", top_p_, "Only the most probable tokens that reach this; 0: all")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--min-p", min_p_, "Only tokens this probable beside the most probable one")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--repetition-penalty", repetition_penalty_, "0: none")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--stop", stop_, "Stop before this text (repeat)")->allow_extra_args(false);
  command.add_flag("--ignore-eos", ignore_eos_, "Go on behind the model's end of text");
}

v1::DecodeRequest DecodeOptions::Request(const std::string& session) const {
  v1::DecodeRequest request;
  request.set_session(session);
  request.set_max_new_tokens(max_tokens_);
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(temperature_);
  sampling.set_top_k(top_k_);
  sampling.set_top_p(top_p_);
  sampling.set_min_p(min_p_);
  sampling.set_repetition_penalty(repetition_penalty_);
  request.mutable_stop()->mutable_sequences()->Assign(stop_.begin(), stop_.end());
  request.mutable_stop()->set_ignore_eos(ignore_eos_);
  return request;
}

}  // namespace attnd::cli
