// What the commands of sessions and models share.
#ifndef ATTND_CLIENTS_CLI_SESSION_COMMANDS_H_
#define ATTND_CLIENTS_CLI_SESSION_COMMANDS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attnd/sessions.h"
#include "clients/cli/commands.h"

namespace attnd::cli {

// A subcommand whose body runs on a connection.
inline void OnClient(CLI::App* command, Session& session,
                     std::function<absl::Status(const client::Client&)> body) {
  command->callback([&session, body = std::move(body)] {
    session.Run([&](const client::Client& client) -> absl::StatusOr<int> {
      absl::Status status = body(client);
      if (!status.ok()) return status;
      return 0;
    });
  });
}

inline void OnCall(CLI::App* command, Session& session,
                   std::function<absl::Status(const client::Sessions&)> body) {
  OnClient(command, session, [body = std::move(body)](const client::Client& client) {
    return body(client::Sessions(client));
  });
}

absl::Status PrintSession(const Session& options, const absl::StatusOr<v1::Session>& session);

// Positions that may be left out.
void SetExpected(const std::optional<uint64_t>& expected, auto& request) {
  if (expected.has_value()) request.set_expected_position(*expected);
}

inline CLI::Option* AddExpected(CLI::App* command, std::optional<uint64_t>& expected) {
  return command->add_option("--at", expected, "Only if the session stands at this position");
}

inline CLI::Option* AddName(CLI::App* command, std::string& name) {
  return command->add_option("session", name, "Session")->required();
}

// Into the group of sessions: snapshot, snapshots, restore, delete-snapshot.
void AddSnapshots(CLI::App& group, Session& session);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_SESSION_COMMANDS_H_
