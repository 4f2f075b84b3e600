// session snapshot, snapshots, restore, delete-snapshot.
#include <iostream>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "clients/cli/output.h"
#include "clients/cli/session_commands.h"
#include "nlohmann/json.hpp"

namespace attnd::cli {
namespace {

struct Options {
  std::string session, snapshot;
  std::optional<uint64_t> position, expected;
};

std::shared_ptr<Options> AddNames(CLI::App* command) {
  auto options = std::make_shared<Options>();
  AddName(command, options->session);
  command->add_option("snapshot", options->snapshot, "The point's name")->required();
  return options;
}

absl::Status PrintSnapshots(const Session& session, const std::vector<v1::SnapshotInfo>& all) {
  if (session.json) {
    v1::ListSnapshotsResponse response;
    for (const v1::SnapshotInfo& one : all) *response.add_snapshots() = one;
    return PrintJson(response);
  }
  Table table({"SNAPSHOT", "POSITION", "CHAIN HASH"});
  for (const v1::SnapshotInfo& one : all) {
    table.Add({one.snapshot(), absl::StrCat(one.position()),
               absl::BytesToHexString(one.chain_hash()).substr(0, 16)});
  }
  std::cout << table.ToString();
  return absl::OkStatus();
}

}  // namespace

void AddSnapshots(CLI::App& group, Session& session) {
  CLI::App* take = group.add_subcommand("snapshot", "Give a point of a session a name");
  auto taken = AddNames(take);
  take->add_option("--position", taken->position, "The point; none: where the session stands");
  AddExpected(take, taken->expected);
  OnCall(take, session, [taken, &session](const client::Sessions& sessions) -> absl::Status {
    v1::SnapshotRequest request;
    request.set_session(taken->session);
    request.set_snapshot(taken->snapshot);
    if (taken->position.has_value()) request.set_position(*taken->position);
    SetExpected(taken->expected, request);
    const auto made = sessions.Snapshot(request);
    if (!made.ok()) return made.status();
    return session.json ? PrintJson(*made) : PrintSnapshots(session, {*made});
  });

  CLI::App* list = group.add_subcommand("snapshots", "The named points of a session");
  auto name = std::make_shared<std::string>();
  AddName(list, *name);
  OnCall(list, session, [name, &session](const client::Sessions& sessions) -> absl::Status {
    const auto all = sessions.ListSnapshots(*name);
    if (!all.ok()) return all.status();
    return PrintSnapshots(session, *all);
  });

  CLI::App* restore = group.add_subcommand("restore", "Take a session to a named point");
  auto restored = AddNames(restore);
  AddExpected(restore, restored->expected);
  OnCall(restore, session, [restored, &session](const client::Sessions& sessions) {
    v1::RestoreRequest request;
    request.set_session(restored->session);
    request.set_snapshot(restored->snapshot);
    SetExpected(restored->expected, request);
    return PrintSession(session, sessions.Restore(request));
  });

  CLI::App* drop = group.add_subcommand("delete-snapshot", "Take a point's name away");
  auto dropped = AddNames(drop);
  OnCall(drop, session, [dropped, &session](const client::Sessions& sessions) {
    absl::Status status = sessions.DeleteSnapshot(dropped->session, dropped->snapshot);
    if (status.ok() && session.json) {
      std::cout << nlohmann::ordered_json({{"deleted", dropped->snapshot}}).dump(2) << "\n";
    }
    return status;
  });
}

}  // namespace attnd::cli
