// What a hop between two processes costs, one small call at a time.
#ifndef ATTND_BENCH_HOP_H_
#define ATTND_BENCH_HOP_H_

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace attnd::bench {

// Small evaluations at each of `servers` (by name: a target), and, to compare with, echoes of as
// many bytes at `echo_targets`, as calls of their own and on a kept stream; rounds alternate.
// Beside them the time in which a byte goes to a sleeping thread and back through pipes.
nlohmann::json Hop(const std::vector<std::pair<std::string, std::string>>& servers,
                   const std::vector<std::pair<std::string, std::string>>& echo_targets,
                   double seconds);

}  // namespace attnd::bench

#endif  // ATTND_BENCH_HOP_H_
