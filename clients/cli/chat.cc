// chat: a conversation with a model, in a session that stays where its text is.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "attnd/sessions.h"
#include "clients/cli/commands.h"
#include "clients/cli/decode_options.h"
#include "clients/cli/files.h"
#include "clients/cli/output.h"
#include "nlohmann/json.hpp"

namespace attnd::cli {
namespace {

using Json = nlohmann::ordered_json;

// Ctrl-C while the model speaks makes it stop; what it said stays.
std::atomic<bool> interrupted = false;

struct Options {
  std::string model, name;
  uint64_t seed = 0;
  bool keep = false;
  DecodeOptions decode;
};

class Chat {
 public:
  Chat(const client::Sessions& sessions, const Options& options, bool json)
      : sessions_(sessions), options_(options), json_(json) {}

  absl::Status Run() {
    if (absl::Status s = Open(); !s.ok()) return s;
    const bool terminal = isatty(STDIN_FILENO) != 0;
    if (terminal) {
      std::cerr << "session " << name_ << " at " << position_
                << "; /back takes the last turn back, /save FILE keeps it, /quit ends\n";
    }
    std::string line;
    for (;;) {
      if (terminal) std::cerr << "> " << std::flush;
      if (!std::getline(std::cin, line) || line == "/quit") break;
      absl::Status status = Take(line);
      if (!status.ok() && (!terminal || absl::IsUnavailable(status))) return status;
      if (!status.ok()) Report(status);
    }
    return Close();
  }

 private:
  // The session of that name, or a new one.
  absl::Status Open() {
    if (!options_.name.empty()) {
      const auto there = sessions_.Get(options_.name);
      if (there.ok()) {
        if (there->model() != options_.model) {
          return absl::FailedPreconditionError(absl::StrCat("session ", options_.name,
                                                            ": given model ", options_.model,
                                                            ", the session has ", there->model()));
        }
        name_ = there->session();
        position_ = there->position();
        return absl::OkStatus();
      }
      if (!absl::IsNotFound(there.status())) return there.status();
    }
    v1::CreateSessionRequest request;
    request.set_model(options_.model);
    request.set_session(options_.name);
    request.set_seed(options_.seed);
    const auto made = sessions_.Create(request);
    if (!made.ok()) return made.status();
    name_ = made->session();
    return absl::OkStatus();
  }

  // One that nobody named is of no use afterwards.
  absl::Status Close() const {
    if (!options_.name.empty() || options_.keep) return absl::OkStatus();
    return sessions_.Delete(name_);
  }

  absl::Status Take(absl::string_view line) {
    if (line == "/back") return Back();
    if (absl::ConsumePrefix(&line, "/save ")) return Save(std::string(line));
    if (absl::StartsWith(line, "/")) {
      return absl::InvalidArgumentError(
          absl::StrCat("given ", line, ", expected /back, /save FILE or /quit"));
    }
    return Turn(absl::StrCat(line, "\n"));
  }

  absl::Status Turn(const std::string& said) {
    v1::AppendRequest append;
    append.set_session(name_);
    append.set_text(said);
    append.set_expected_position(position_);
    const auto appended = sessions_.Append(append);
    if (!appended.ok()) return appended.status();
    turns_.push_back(position_);
    position_ = appended->position();
    v1::DecodeRequest request = options_.decode.Request(name_);
    request.set_expected_position(position_);
    std::string text;
    interrupted = false;
    auto* before = std::signal(SIGINT, [](int) { interrupted = true; });
    absl::Status status = sessions_.Decode(request, [&](const v1::DecodeEvent& event) {
      // The session is asked for what the client saw: more that it has is taken back.
      position_ = event.position() + static_cast<uint64_t>(event.tokens_size());
      text += event.text();
      if (!json_) std::cout << event.text() << std::flush;
      return !interrupted;
    });
    std::signal(SIGINT, before);
    if (!status.ok() && !absl::IsCancelled(status)) return status;
    if (json_) {
      std::cout << Json({{"session", name_}, {"position", position_}, {"text", text}}).dump()
                << std::endl;
    } else if (!absl::EndsWith(text, "\n")) {
      std::cout << std::endl;
    }
    return absl::OkStatus();
  }

  absl::Status Back() {
    if (turns_.empty()) return absl::FailedPreconditionError("no turn was taken yet");
    v1::RewindRequest request;
    request.set_session(name_);
    request.set_position(turns_.back());
    request.set_expected_position(position_);
    const auto rewound = sessions_.Rewind(request);
    if (!rewound.ok()) return rewound.status();
    position_ = rewound->position();
    turns_.pop_back();
    return absl::OkStatus();
  }

  absl::Status Save(const std::string& path) const {
    const auto file = sessions_.Export(name_);
    if (!file.ok()) return file.status();
    return WriteFile(path, *file);
  }

  const client::Sessions& sessions_;
  const Options& options_;
  const bool json_;
  std::string name_;
  uint64_t position_ = 0;
  std::vector<uint64_t> turns_;  // Where each began.
};

}  // namespace

void AddChat(CLI::App& app, Session& session) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "chat",
      "Talk to a model: a line in, text out, as it comes; the model goes on with all that "
      "was said");
  command->add_option("model", options->model, "Model")->required();
  command->add_option("--session", options->name,
                      "Go on in this session, or begin it; it stays afterwards");
  command->add_option("--seed", options->seed, "Of a new session");
  command->add_flag("--keep", options->keep, "Keep the session although it has no name of yours");
  options->decode.AddTo(*command);
  command->callback([options, &session] {
    session.Run([&](const client::Client& client) -> absl::StatusOr<int> {
      const client::Sessions sessions(client);
      absl::Status status = Chat(sessions, *options, session.json).Run();
      if (!status.ok()) return status;
      return 0;
    });
  });
}

}  // namespace attnd::cli
