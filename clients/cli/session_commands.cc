// session create, list, get, append, decode, fork, rewind, delete, export, import; snapshots are in
// snapshot_commands.cc.
#include "clients/cli/session_commands.h"

#include <cstdint>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "attnd/sessions.h"
#include "clients/cli/call_options.h"
#include "clients/cli/commands.h"
#include "clients/cli/decode_options.h"
#include "clients/cli/files.h"
#include "clients/cli/output.h"
#include "clients/cli/outputs.h"
#include "clients/cli/tensor_files.h"
#include "nlohmann/json.hpp"

namespace attnd::cli {
namespace {

using Json = nlohmann::ordered_json;
// A language model's name or an operator's id; empty where the server tells no more than the name.
const std::string& Runs(const v1::Session& session) {
  return session.op().empty() ? session.model() : session.op();
}

std::string Expiry(const v1::Session& session) {
  return Runs(session).empty() ? "" : absl::StrFormat("%.0f", session.expires_in_seconds());
}

}  // namespace

absl::Status PrintSession(const Session& options, const absl::StatusOr<v1::Session>& session) {
  if (!session.ok()) return session.status();
  if (options.json) return PrintJson(*session);
  Table table({"FIELD", "VALUE"});
  const auto add = [&](const char* field, std::string value) {
    if (!value.empty()) table.Add({field, std::move(value)});
  };
  add("session", session->session());
  add("model", session->model());
  add("operator", session->op());
  add("position", absl::StrCat(session->position()));
  if (session->oldest_position() > 0) add("oldest", absl::StrCat(session->oldest_position()));
  add("durable", absl::StrCat(session->durable_position()));
  add("durability", v1::SessionDurability_Name(session->durability()));
  add("seed", absl::StrCat(session->seed()));
  add("tier", session->tier());
  add("state bytes", absl::StrCat(session->state_bytes()));
  if (!session->parent().empty()) {
    add("parent", absl::StrCat(session->parent(), " at ", session->forked_at()));
  }
  add("expires in s", Expiry(*session));
  for (const auto& [key, value] : session->labels()) {
    table.Add({absl::StrCat("label ", key), value});
  }
  std::cout << table.ToString();
  return absl::OkStatus();
}

namespace {

void AddCreate(CLI::App& group, Session& session) {
  struct Options {
    v1::CreateSessionRequest request;
    std::string model, name, durability = "async";
    uint64_t seed = 0;
    double idle = 0;
    CallOptions op;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      group.add_subcommand("create", "A new session on a model, or on an operator (--op)");
  command->add_option("model", options->model, "Model");
  options->op.AddOperatorTo(*command);
  command->add_option("--name", options->name, "Its name; none: one is drawn");
  command->add_option("--seed", options->seed, "Of its sampling");
  command->add_option("--durability", options->durability, "none, async or sync")
      ->check(CLI::IsMember({"none", "async", "sync"}))
      ->capture_default_str();
  command->add_option("--idle-seconds", options->idle,
                      "Deleted when unused for so long; 0: as the server has it");
  // What is missing is a mistake in the command line.
  command->parse_complete_callback([options] {
    if (options->model.empty() == options->op.op().empty()) {
      throw CLI::RequiredError("session create: a model, or --op with an operator,");
    }
  });
  OnClient(command, session, [options, &session](const client::Client& client) -> absl::Status {
    v1::CreateSessionRequest& request = options->request;
    const client::Sessions sessions(client);
    request.set_model(options->model);
    request.set_session(options->name);
    request.set_seed(options->seed);
    request.set_idle_seconds(options->idle);
    request.set_durability(options->durability == "none"   ? v1::NONE
                           : options->durability == "sync" ? v1::SYNC
                                                           : v1::ASYNC);
    if (options->op.op().empty()) return PrintSession(session, sessions.Create(request));
    const auto call = options->op.WithoutInputs(client);
    if (!call.ok()) return call.status();
    request.set_op(call->op);
    request.set_kernel(call->kernel);
    return PrintSession(session, sessions.Create(request, call->attributes));
  });
}

void AddSessionList(CLI::App& group, Session& session) {
  auto prefix = std::make_shared<std::string>();
  CLI::App* command = group.add_subcommand("list", "The server's sessions");
  command->add_option("prefix", *prefix, "Only names that begin like this");
  OnCall(command, session, [prefix, &session](const client::Sessions& sessions) -> absl::Status {
    const auto all = sessions.List(*prefix);
    if (!all.ok()) return all.status();
    if (session.json) {
      v1::ListSessionsResponse response;
      for (const v1::Session& one : *all) *response.add_sessions() = one;
      return PrintJson(response);
    }
    Table table({"SESSION", "MODEL", "POSITION", "TIER", "STATE BYTES", "EXPIRES IN S"});
    for (const v1::Session& one : *all) {
      // Of one that only the store has, the server tells no more than its name.
      const bool live = !Runs(one).empty();
      table.Add({one.session(), Runs(one), live ? absl::StrCat(one.position()) : "",
                 live ? one.tier() : "store", live ? absl::StrCat(one.state_bytes()) : "",
                 Expiry(one)});
    }
    std::cout << table.ToString();
    return absl::OkStatus();
  });
}

void AddGet(CLI::App& group, Session& session) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = group.add_subcommand("get", "What a session is");
  AddName(command, *name);
  OnCall(command, session, [name, &session](const client::Sessions& sessions) {
    return PrintSession(session, sessions.Get(*name));
  });
}

absl::Status PrintFed(const Session& session, const client::Fed& fed) {
  if (session.json) {
    std::cout << Json({{"outputs", OutputsJson(fed.result)},
                       {"kernel", fed.result.kernel},
                       {"device", fed.result.device},
                       {"position", fed.position},
                       {"repeated", fed.repeated}})
                     .dump(2)
              << "\n";
    return absl::OkStatus();
  }
  PrintOutputs(fed.result);
  std::cout << "kernel " << fed.result.kernel << " on " << fed.result.device
            << ", the session stands at " << fed.position << "\n";
  return absl::OkStatus();
}

void AddAppend(CLI::App& group, Session& session) {
  struct Options {
    std::string name, text, output;
    std::vector<uint32_t> tokens;
    std::optional<uint64_t> expected;
    CallOptions files;
    std::vector<std::string> select;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = group.add_subcommand(
      "append", "Feed text or tokens to a model's session, tensors to an operator's");
  AddName(command, options->name);
  CLI::Option* text = command->add_option("text", options->text, "Text; - reads standard input");
  command->add_option("--tokens", options->tokens, "Token ids instead of text")
      ->delimiter(',')
      ->excludes(text);
  AddExpected(command, options->expected);
  options->files.AddFilesTo(*command);
  command->add_option("--output", options->output,
                      "Write outputs to a .npz, .safetensors or .npy file");
  command->add_option("--select", options->select, "Outputs wanted (repeat); none: all but states");
  OnCall(command, session, [options, &session](const client::Sessions& sessions) -> absl::Status {
    v1::AppendRequest request;
    request.set_session(options->name);
    if (options->files.has_files()) {
      SetExpected(options->expected, request);
      request.mutable_outputs()->Assign(options->select.begin(), options->select.end());
      auto inputs = options->files.ReadFiles();
      if (!inputs.ok()) return inputs.status();
      const auto fed = sessions.Feed(std::move(request), *std::move(inputs));
      if (!fed.ok()) return fed.status();
      if (!options->output.empty()) {
        absl::Status written = WriteTensors(options->output, fed->result.outputs);
        if (!written.ok()) return written;
      }
      return PrintFed(session, *fed);
    }
    request.mutable_tokens()->Assign(options->tokens.begin(), options->tokens.end());
    if (options->text == "-") {
      std::ostringstream all;
      all << std::cin.rdbuf();
      request.set_text(all.str());
    } else {
      request.set_text(options->text);
    }
    SetExpected(options->expected, request);
    const auto response = sessions.Append(request);
    if (!response.ok()) return response.status();
    if (session.json) return PrintJson(*response);
    std::cout << response->tokens_size() << " tokens, the session stands at "
              << response->position() << "\n";
    return absl::OkStatus();
  });
}

void AddDecode(CLI::App& group, Session& session) {
  struct Options {
    std::string name;
    std::optional<uint64_t> expected;
    DecodeOptions decode;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = group.add_subcommand(
      "decode", "Sample and print text as it comes; a stream that breaks is taken up again");
  AddName(command, options->name);
  AddExpected(command, options->expected);
  options->decode.AddTo(*command);
  OnCall(command, session, [options, &session](const client::Sessions& sessions) -> absl::Status {
    v1::DecodeRequest request = options->decode.Request(options->name);
    SetExpected(options->expected, request);
    Json tokens = Json::array();
    std::string text;
    v1::DecodeEvent last;
    absl::Status status = sessions.Decode(request, [&](const v1::DecodeEvent& event) {
      for (const v1::SampledToken& token : event.tokens()) tokens.push_back(token.token());
      text += event.text();
      if (!session.json) std::cout << event.text() << std::flush;
      last = event;
      return true;
    });
    if (!status.ok()) return status;
    if (session.json) {
      std::cout << Json({{"text", text},
                         {"tokens", tokens},
                         {"finish", v1::FinishReason_Name(last.finish())},
                         {"position", last.position()}})
                       .dump(2)
                << "\n";
    } else {
      std::cout << "\n";
    }
    return absl::OkStatus();
  });
}

void AddFork(CLI::App& group, Session& session) {
  struct Options {
    std::string name, fork;
    std::optional<uint64_t> position, seed;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = group.add_subcommand("fork", "A new session that begins like another");
  AddName(command, options->name);
  command->add_option("--name", options->fork, "Of the new one; none: one is drawn");
  command->add_option("--position", options->position, "Where they part; none: here");
  command->add_option("--seed", options->seed, "Of the new one; none: the same");
  OnCall(command, session, [options, &session](const client::Sessions& sessions) {
    v1::ForkRequest request;
    request.set_session(options->name);
    request.set_new_session(options->fork);
    if (options->position.has_value()) request.set_position(*options->position);
    if (options->seed.has_value()) request.set_seed(*options->seed);
    return PrintSession(session, sessions.Fork(request));
  });
}

void AddRewind(CLI::App& group, Session& session) {
  struct Options {
    std::string name;
    uint64_t position = 0;
    std::optional<uint64_t> expected;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = group.add_subcommand("rewind", "Take back everything from a position on");
  AddName(command, options->name);
  command->add_option("position", options->position, "Tokens, or positions, that stay")->required();
  AddExpected(command, options->expected);
  OnCall(command, session, [options, &session](const client::Sessions& sessions) {
    v1::RewindRequest request;
    request.set_session(options->name);
    request.set_position(options->position);
    SetExpected(options->expected, request);
    return PrintSession(session, sessions.Rewind(request));
  });
}

void AddDelete(CLI::App& group, Session& session) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = group.add_subcommand("delete", "End a session for good");
  AddName(command, *name);
  OnCall(command, session, [name, &session](const client::Sessions& sessions) {
    absl::Status status = sessions.Delete(*name);
    if (status.ok() && session.json) std::cout << Json({{"deleted", *name}}).dump(2) << "\n";
    return status;
  });
}

void AddExport(CLI::App& group, Session& session) {
  struct Options {
    std::string name, path;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = group.add_subcommand("export", "A session into a .safetensors file");
  AddName(command, options->name);
  command->add_option("file", options->path, "File to write")->required();
  OnCall(command, session, [options, &session](const client::Sessions& sessions) -> absl::Status {
    const auto file = sessions.Export(options->name);
    if (!file.ok()) return file.status();
    if (absl::Status s = WriteFile(options->path, *file); !s.ok()) return s;
    if (session.json) {
      std::cout << Json({{"file", options->path}, {"bytes", file->size()}}).dump(2) << "\n";
    } else {
      std::cout << file->size() << " bytes in " << options->path << "\n";
    }
    return absl::OkStatus();
  });
}

void AddImport(CLI::App& group, Session& session) {
  struct Options {
    std::string path;
    std::string name, model;
    bool recompute = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = group.add_subcommand("import", "A new session from a file of `export`");
  command->add_option("file", options->path, "File to read")->required();
  command->add_option("--name", options->name, "Of the new session; none: one is drawn");
  command->add_option("--model", options->model, "With the file's weights; none: as the file says");
  command->add_flag("--recompute", options->recompute,
                    "Compute the states from the tokens instead of taking the file's");
  OnCall(command, session, [options, &session](const client::Sessions& sessions) -> absl::Status {
    const auto file = ReadFile(options->path);
    if (!file.ok()) return file.status();
    v1::ImportHeader header;
    header.set_session(options->name);
    header.set_model(options->model);
    header.set_recompute(options->recompute);
    return PrintSession(session, sessions.Import(header, *file));
  });
}

}  // namespace

void AddSessions(CLI::App& app, Session& session) {
  CLI::App* group = app.add_subcommand(
      "session", "Sessions of models and operators: what they hold stays until they are deleted");
  group->require_subcommand(1);
  group->fallthrough();
  AddCreate(*group, session);
  AddSessionList(*group, session);
  AddGet(*group, session);
  AddAppend(*group, session);
  AddDecode(*group, session);
  AddFork(*group, session);
  AddRewind(*group, session);
  AddDelete(*group, session);
  AddExport(*group, session);
  AddImport(*group, session);
  AddSnapshots(*group, session);
}

}  // namespace attnd::cli
