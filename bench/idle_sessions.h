// Many idle sessions, and how long they take to go on.
#ifndef ATTND_BENCH_IDLE_SESSIONS_H_
#define ATTND_BENCH_IDLE_SESSIONS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace attnd::bench {

struct IdleLoad {
  std::string model;
  int count = 100000;
  int resumed = 1000;
  int tokens = 4;     // That each resumed session samples.
  int in_flight = 8;  // Calls at a time.
  uint64_t seed = 1;  // Of prompts and of the choice.
};

// Creates the sessions: one in a thousand with a prompt of 600 to 1,600 tokens, one in fifty a
// fork of such a one, the others with prompts of 16 to 64 tokens of their own. Throws
// std::runtime_error for what goes wrong.
nlohmann::json Fill(const std::string& target, const IdleLoad& load);
// Decodes some tokens in sessions drawn at random.
nlohmann::json Resume(const std::string& target, const IdleLoad& load);

}  // namespace attnd::bench

#endif  // ATTND_BENCH_IDLE_SESSIONS_H_
