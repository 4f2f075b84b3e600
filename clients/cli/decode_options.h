// The part of a command line that describes a decode: length, sampling, where to stop.
#ifndef ATTND_CLIENTS_CLI_DECODE_OPTIONS_H_
#define ATTND_CLIENTS_CLI_DECODE_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "attnd/v1/sessions.pb.h"

namespace attnd::cli {

class DecodeOptions {
 public:
  // Adds the options to a subcommand.
  void AddTo(CLI::App& command);
  v1::DecodeRequest Request(const std::string& session) const;

 private:
  uint32_t max_tokens_ = 200;
  float temperature_ = 0;
  uint32_t top_k_ = 0;
  float top_p_ = 0;
  float min_p_ = 0;
  float repetition_penalty_ = 0;
  std::vector<std::string> stop_;
  bool ignore_eos_ = false;
};

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_DECODE_OPTIONS_H_
