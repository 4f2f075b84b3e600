// What sessions on language models cost. Run through bench/run.py, which starts the servers:
//   session_bench decode --model folder [--sessions 32] [--prompt 64] [--tokens 256]
//     most probable tokens through a model's runner, without a service
//   session_bench positions --model folder [--sessions 1]
//     the cost of a token at 1,000, 10,000 and 100,000 tokens
//   session_bench serve --target A --model name [--sessions 32] [--prompt 64] [--tokens 256]
//     the same as decode, over gRPC
//   session_bench moves --target A --model name
//     what a fork and a rewind cost at these positions
//   session_bench fill --target A --model name [--count 100000]
//   session_bench resume --target A [--count 100000] [--resumed 1000] [--tokens 4]
//     idle sessions, and how long some of them, drawn at random, take to go on
// Prints one JSON object.
#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/idle_sessions.h"
#include "bench/session_decodes.h"
#include "kernels/primitives/cpu/parallel.h"

namespace attnd::bench {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("Loads on sessions");
  app.require_subcommand(1);
  DecodeLoad load;
  IdleLoad idle;
  std::string target;
  int threads = 0;
  const auto sized = [&](CLI::App* command) {
    command->add_option("--model", load.model)->required();
    command->add_option("--sessions", load.sessions)->check(CLI::Range(1, 4096));
    command->add_option("--prompt", load.prompt)->check(CLI::Range(1, 1 << 20));
    command->add_option("--tokens", load.tokens)->check(CLI::Range(1, 1 << 20));
    return command;
  };
  CLI::App* decode = sized(app.add_subcommand("decode"));
  CLI::App* positions = sized(app.add_subcommand("positions"));
  for (CLI::App* command : {decode, positions}) command->add_option("--threads", threads);
  CLI::App* serve = sized(app.add_subcommand("serve"));
  CLI::App* moves = app.add_subcommand("moves");
  moves->add_option("--model", load.model)->required();
  CLI::App* fill = app.add_subcommand("fill");
  fill->add_option("--model", idle.model)->required();
  CLI::App* resume = app.add_subcommand("resume");
  for (CLI::App* command : {serve, moves, fill, resume}) {
    command->add_option("--target", target)->required();
  }
  for (CLI::App* command : {fill, resume}) {
    command->add_option("--count", idle.count)->check(CLI::Range(1, 10000000));
    command->add_option("--in-flight", idle.in_flight)->check(CLI::Range(1, 1024));
    command->add_option("--seed", idle.seed);
  }
  resume->add_option("--resumed", idle.resumed)->check(CLI::Range(1, 10000000));
  resume->add_option("--tokens", idle.tokens)->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  cpu::SetThreads(threads);
  nlohmann::json report;
  if (decode->parsed()) report = Decodes(load);
  if (positions->parsed()) report = Positions(load);
  if (serve->parsed()) report = ServedDecodes(target, load);
  if (moves->parsed()) report = Moves(target, load);
  if (fill->parsed()) report = Fill(target, idle);
  if (resume->parsed()) report = Resume(target, idle);
  std::cout << report.dump() << "\n";
  return 0;
}

}  // namespace
}  // namespace attnd::bench

int main(int argc, char** argv) {
  try {
    return attnd::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "session_bench: " << error.what() << "\n";
    return 1;
  }
}
