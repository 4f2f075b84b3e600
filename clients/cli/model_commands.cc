// model list, load, unload, generate, score.
#include <iostream>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "attnd/models.h"
#include "clients/cli/commands.h"
#include "clients/cli/decode_options.h"
#include "clients/cli/output.h"
#include "clients/cli/session_commands.h"
#include "nlohmann/json.hpp"

namespace attnd::cli {
namespace {

using Json = nlohmann::ordered_json;

CLI::Option* AddModel(CLI::App* command, std::string& name) {
  return command->add_option("model", name, "Model")->required();
}

// Text of the command line; "-": all of standard input.
std::string TextOf(const std::string& given) {
  if (given != "-") return given;
  std::ostringstream all;
  all << std::cin.rdbuf();
  return all.str();
}

absl::Status PrintModels(const Session& session, const std::vector<v1::Model>& models) {
  if (session.json) {
    v1::ListModelsResponse response;
    for (const v1::Model& model : models) *response.add_models() = model;
    return PrintJson(response);
  }
  Table table(
      {"MODEL", "TYPE", "LOADED", "DEVICE", "VOCABULARY", "LAYERS", "STATE BYTES", "PER TOKEN"});
  for (const v1::Model& model : models) {
    const auto number = [&](uint64_t value) {
      return model.loaded() ? absl::StrCat(value) : std::string();
    };
    table.Add({model.name(), model.model_type(), model.loaded() ? "yes" : "no", model.device(),
               number(model.vocab_size()), number(model.layers()), number(model.state_bytes()),
               number(model.state_bytes_per_token())});
  }
  std::cout << table.ToString();
  return absl::OkStatus();
}

void AddTable(CLI::App& group, Session& session) {
  OnClient(group.add_subcommand("list", "The server's language models"), session,
           [&session](const client::Client& client) -> absl::Status {
             const auto models = client::Models(client).List();
             if (!models.ok()) return models.status();
             return PrintModels(session, *models);
           });
  auto name = std::make_shared<std::string>();
  CLI::App* load = group.add_subcommand("load", "Read a model, if it is not there yet");
  AddModel(load, *name);
  OnClient(load, session, [name, &session](const client::Client& client) -> absl::Status {
    const auto model = client::Models(client).Load(*name);
    if (!model.ok()) return model.status();
    return session.json ? PrintJson(*model) : PrintModels(session, {*model});
  });
  CLI::App* unload = group.add_subcommand("unload", "Give a model's memory back");
  AddModel(unload, *name);
  OnClient(unload, session, [name, &session](const client::Client& client) {
    absl::Status status = client::Models(client).Unload(*name);
    if (status.ok() && session.json) std::cout << Json({{"unloaded", *name}}).dump(2) << "\n";
    return status;
  });
}

void AddGenerate(CLI::App& group, Session& session) {
  struct Options {
    std::string model, text;
    std::vector<uint32_t> tokens;
    uint64_t seed = 0;
    DecodeOptions decode;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      group.add_subcommand("generate", "Sample behind a prompt, without a session that stays");
  AddModel(command, options->model);
  CLI::Option* text = command->add_option("text", options->text, "Prompt; - reads standard input");
  command->add_option("--tokens", options->tokens, "Token ids instead of text")
      ->delimiter(',')
      ->excludes(text);
  command->add_option("--seed", options->seed, "Of the sampling");
  options->decode.AddTo(*command);
  OnClient(command, session, [options, &session](const client::Client& client) -> absl::Status {
    const v1::DecodeRequest decode = options->decode.Request("");
    v1::GenerateRequest request;
    request.set_model(options->model);
    request.set_text(TextOf(options->text));
    request.mutable_tokens()->Assign(options->tokens.begin(), options->tokens.end());
    request.set_seed(options->seed);
    request.set_max_new_tokens(decode.max_new_tokens());
    *request.mutable_sampling() = decode.sampling();
    *request.mutable_stop() = decode.stop();
    Json tokens = Json::array();
    std::string all;
    v1::FinishReason finish = v1::NOT_FINISHED;
    absl::Status status =
        client::Models(client).Generate(request, [&](const v1::DecodeEvent& event) {
          for (const v1::SampledToken& token : event.tokens()) tokens.push_back(token.token());
          all += event.text();
          if (!session.json) std::cout << event.text() << std::flush;
          finish = event.finish();
          return true;
        });
    if (!status.ok()) return status;
    if (session.json) {
      std::cout << Json({{"text", all},
                         {"tokens", tokens},
                         {"finish", v1::FinishReason_Name(finish)}})
                       .dump(2);
    }
    std::cout << "\n";
    return absl::OkStatus();
  });
}

void AddScore(CLI::App& group, Session& session) {
  struct Options {
    std::string model, text, context;
    std::vector<uint32_t> tokens;
    uint32_t top = 0;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      group.add_subcommand("score", "How probable a model finds a text: log-probabilities");
  AddModel(command, options->model);
  CLI::Option* text = command->add_option("text", options->text, "Text; - reads standard input");
  command->add_option("--tokens", options->tokens, "Token ids instead of text")
      ->delimiter(',')
      ->excludes(text);
  command->add_option("--context", options->context, "Text before it, which is not scored");
  command->add_option("--top", options->top, "So many of the most probable tokens at each place");
  OnClient(command, session, [options, &session](const client::Client& client) -> absl::Status {
    v1::ScoreRequest request;
    request.set_model(options->model);
    request.set_text(TextOf(options->text));
    request.mutable_tokens()->Assign(options->tokens.begin(), options->tokens.end());
    request.set_context_text(options->context);
    request.set_top_logprobs(options->top);
    const auto scored = client::Models(client).Score(request);
    if (!scored.ok()) return scored.status();
    if (session.json) return PrintJson(*scored);
    Table table({"TOKEN", "LOGPROB"});
    for (const v1::ScoredToken& token : scored->tokens()) {
      table.Add({absl::StrCat(token.token()), token.has_logprob() ? Number(token.logprob()) : ""});
    }
    std::cout << table.ToString() << scored->scored() << " tokens, log-probability "
              << Number(scored->total_logprob()) << ", perplexity " << Number(scored->perplexity())
              << "\n";
    return absl::OkStatus();
  });
}

}  // namespace

void AddModels(CLI::App& app, Session& session) {
  CLI::App* group = app.add_subcommand("model", "Language models of a server");
  group->require_subcommand(1);
  group->fallthrough();
  AddTable(*group, session);
  AddGenerate(*group, session);
  AddScore(*group, session);
}

}  // namespace attnd::cli
