// attndctl: lists, describes, evaluates, compares and measures the operators of a server; runs its
// decode sessions.
#include <exception>
#include <iostream>

#include "CLI/CLI.hpp"
#include "clients/cli/commands.h"
#include "clients/cli/output.h"

namespace attnd::cli {

absl::StatusOr<client::Client> Session::Connect() const {
  client::Options options;
  if (timeout > 0) {
    options.timeout = absl::Seconds(timeout);
    options.connect_timeout = options.timeout;
  }
  return client::Client::Connect(address, options);
}

void Session::Run(const std::function<absl::StatusOr<int>(const client::Client&)>& body) {
  const auto client = Connect();
  if (!client.ok()) {
    exit_status = Report(client.status());
    return;
  }
  const auto result = body(*client);
  exit_status = result.ok() ? *result : Report(result.status());
}

namespace {

int Main(int argc, char** argv) {
  Session session;
  CLI::App app(
      "Attention operators of an attnd server: list, describe, evaluate, compare, measure; and "
      "its decode sessions.");
  app.require_subcommand(0, 1);
  app.fallthrough();
  app.add_option("--address", session.address, "Server, host:port")
      // Not ATTND_ADDRESS, which is where a server listens.
      ->envname("ATTND_SERVER")
      ->capture_default_str();
  app.add_option("--timeout", session.timeout, "Seconds for each call; 0: no limit")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--json", session.json, "Print JSON");
  AddList(app, session);
  AddDescribe(app, session);
  AddEvaluate(app, session);
  AddCompare(app, session);
  AddBench(app, session);
  AddSessions(app, session);
  AddModels(app, session);
  AddChat(app, session);
  AddHealth(app, session);
  app.add_subcommand("version", "Print the version")->callback([] {
    std::cout << "attndctl " ATTND_VERSION "\n";
  });
  // 0: done; 1: it failed; 2: it was asked for wrongly.
  try {
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) {
      throw CLI::RequiredError(
          "A command: list, describe, eval, compare, bench, session, model, chat, health or "
          "version");
    }
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  return session.exit_status;
}

}  // namespace
}  // namespace attnd::cli

int main(int argc, char** argv) {
  try {
    return attnd::cli::Main(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "attndctl: " << e.what() << "\n";
    return 1;
  }
}
