// Decodes side by side, and what a token costs.
#ifndef ATTND_BENCH_SESSION_DECODES_H_
#define ATTND_BENCH_SESSION_DECODES_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace attnd::bench {

struct DecodeLoad {
  std::string model;  // Its folder; of a server, its name.
  int sessions = 1;
  int prompt = 64;
  int tokens = 256;  // That each session samples.
};

// Prompt of session `index`, as decode_pytorch.py has it.
std::vector<int32_t> Prompt(int index, int length, int64_t vocab);

// Through a ModelRunner of this process. Throws std::runtime_error for what goes wrong.
nlohmann::json Decodes(const DecodeLoad& load);
// Time of a token around three positions; prompt and tokens are not read.
nlohmann::json Positions(const DecodeLoad& load);
// Through Sessions.Decode of a server.
nlohmann::json ServedDecodes(const std::string& target, const DecodeLoad& load);

// What a fork costs at three positions, and a token after a fork was taken back by some thousand;
// of the load only the model is read.
nlohmann::json Moves(const std::string& target, const DecodeLoad& load);

}  // namespace attnd::bench

#endif  // ATTND_BENCH_SESSION_DECODES_H_
