// The subcommands of attndctl. Each adds itself to the program; its callback stores the exit
// status.
#ifndef ATTND_CLIENTS_CLI_COMMANDS_H_
#define ATTND_CLIENTS_CLI_COMMANDS_H_

#include <functional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "attnd/client.h"

namespace attnd::cli {

// What all subcommands share.
struct Session {
  std::string address = "localhost:8001";
  double timeout = 0;  // Seconds; 0: none.
  bool json = false;
  int exit_status = 0;

  absl::StatusOr<client::Client> Connect() const;
  // Runs a subcommand's body on a connection and keeps its exit status.
  void Run(const std::function<absl::StatusOr<int>(const client::Client&)>& body);
};

// The session outlives the app.
void AddList(CLI::App& app, Session& session);
void AddDescribe(CLI::App& app, Session& session);
void AddHealth(CLI::App& app, Session& session);
void AddEvaluate(CLI::App& app, Session& session);
void AddCompare(CLI::App& app, Session& session);
void AddBench(CLI::App& app, Session& session);
// Those of decode sessions: `session create`, `session list`, ...
void AddSessions(CLI::App& app, Session& session);
// `model list`, `model load`, ...
void AddModels(CLI::App& app, Session& session);
void AddChat(CLI::App& app, Session& session);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_COMMANDS_H_
