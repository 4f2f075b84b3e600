#include "service/config.h"

#include <sys/un.h>
#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace attnd {
namespace {

constexpr absl::string_view kFlagPrefix = "--";

constexpr int64_t kMaxSize = int64_t{1} << 50;

// "--max-tensor-bytes" -> "ATTND_MAX_TENSOR_BYTES".
std::string EnvironmentName(absl::string_view flag) {
  return absl::StrCat("ATTND_", absl::AsciiStrToUpper(absl::StrReplaceAll(
                                    absl::StripPrefix(flag, kFlagPrefix), {{"-", "_"}})));
}

// "67108864" -> "64MiB", where nothing is lost by it.
std::string SizeText(int64_t bytes) {
  static constexpr absl::string_view kUnits[] = {"", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return absl::StrCat(bytes, kUnits[unit]);
}

// Declares the flags on the parser, each with its variable, its range and its default as text.
class Flags {
 public:
  Flags(CLI::App& app, Config& config) : app_(app) {
    app.option_defaults()->always_capture_default();
    Group("Listening");
    Add("--address", config.address, "address to listen on");
    Add("--port", config.port, "gRPC port; 0: a free one")->check(CLI::Range(0, 65535));
    Add("--socket", config.socket,
        "Unix socket to listen on as well, for clients and routers on this machine");
    Add("--metrics-port", config.metrics_port,
        "port of metrics and status page; 0: a free one, -1: none")
        ->check(CLI::Range(-1, 65535));
    Add("--port-file", config.port_file, "write the ports to this file as JSON once listening");
    Group("Workers (attnd router)");
    Add("--workers", config.workers, "addresses of the workers: host:port or unix:/path,...")
        ->delimiter(',');
    Add("--worker-streams", config.worker_streams, "launches under way at one worker")
        ->check(CLI::Range(1, 64));
    Group("Device (attnd serve, attnd worker)");
    Add("--device", config.device, "auto, cpu or cuda:N");
    Add("--executors", config.executors, "launches at a time; 0: two on the CPU, one on a GPU")
        ->check(CLI::Range(0, 64));
    Add("--cpu-threads", config.cpu_threads, "threads of CPU kernels; 0: all cores")
        ->check(CLI::Range(0, 1024));
    Group("Limits");
    Size(
        "--memory-limit", [&config](int64_t bytes) { config.memory_limit = bytes; },
        "half of the machine's or container's memory",
        "tensors in host memory: what is computed, and answers until clients have read them; if "
        "given, also tensors of each executor on a GPU; 0: no limit",
        0);
    Size("--max-message-bytes", config.max_message_bytes, "one gRPC message", 1 << 16);
    Size("--max-tensor-bytes", config.max_tensor_bytes, "one tensor on a stream", 1 << 16);
    Size("--max-call-bytes", config.max_call_bytes, "inputs and outputs of one call", 1 << 16);
    Size("--max-buffer-bytes", config.max_buffer_bytes,
         "bytes received for calls that are not complete yet, all clients together", 1 << 20);
    Add("--max-streams", config.max_streams, "calls under way on one connection")
        ->check(CLI::Range(1, 1 << 20));
    Add("--max-sequences", config.max_sequences, "sequences whose state the server keeps")
        ->check(CLI::Range(0, 1 << 24));
    Size("--max-sequence-bytes", config.max_sequence_bytes, "states of all sequences together", 0);
    Add("--sequence-idle-seconds", config.sequence_idle_seconds,
        "idle time after which a sequence's state is dropped")
        ->check(CLI::Range(0.001, 1e9));
    Group("Sessions (attnd serve)");
    Add("--models", config.models, "directory of language models, one folder each");
    Add("--state-dir", config.state_dir,
        "directory in which sessions outlive the process; empty: they end with it");
    Add("--state-url", config.state_url,
        "a Redis server instead, in which sessions outlive the machine: "
        "redis://[[user]:password@]host[:port][/database] or redis+unix:///path");
    Size("--max-store-bytes", config.max_store_bytes, "what sessions may take there; 0: no limit",
         0);
    Add("--max-sessions", config.max_sessions, "sessions that there may be, in memory and there")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
    Size("--max-checkpoint-bytes", config.max_checkpoint_bytes,
         "states that one session keeps there to be taken back to, one in 512 tokens; beyond it "
         "fewer, the further back",
         0);
    Size("--max-session-log-bytes", config.max_session_log_bytes,
         "inputs that one operator's session keeps to be taken back over; older ones are dropped, "
         "0: none",
         0);
    Add("--session-idle-seconds", config.session_idle_seconds,
        "idle time after which a session is deleted, unless it says another")
        ->check(CLI::Range(0.001, 1e9));
    Size("--max-session-bytes", config.max_session_bytes,
         "states of sessions in memory; the longest unused go to the store beyond it", 1 << 20);
    Group("Queue and batches");
    Add("--queue-calls", config.queue_calls, "calls that may wait")->check(CLI::Range(1, 1 << 20));
    Size("--queue-bytes", config.queue_bytes, "bytes of the calls that may wait", 1 << 16);
    Add("--max-batch-calls", config.max_batch_calls, "calls in one launch; 1: never batch")
        ->check(CLI::Range(1, 4096));
    Size("--max-batch-bytes", config.max_batch_bytes, "bytes of the calls in one launch", 0);
    Group("Stopping");
    Add("--drain-seconds", config.drain_seconds, "time to finish calls after SIGTERM")
        ->check(CLI::Range(0.0, 1e6));
    Add("--drain-notice-ms", config.drain_notice_ms,
        "calls are still taken for so long after health says NOT_SERVING")
        ->check(CLI::Range(0, 600000));
    Group("Logs");
    static const std::map<std::string, LogLevel> kLevels = {{"debug", LogLevel::kDebug},
                                                            {"info", LogLevel::kInfo},
                                                            {"warn", LogLevel::kWarn},
                                                            {"error", LogLevel::kError}};
    static const std::map<std::string, LogFormat> kFormats = {{"json", LogFormat::kJson},
                                                              {"text", LogFormat::kText}};
    Choice("--log-level", config.log_level, "least level that is logged", kLevels);
    Choice("--log-format", config.log_format, "form of a log line", kFormats);
  }

 private:
  void Group(std::string name) { group_ = std::move(name); }

  template <typename T>
  CLI::Option* Add(const std::string& flag, T& variable, const std::string& help) {
    return app_.add_option(flag, variable, help)->group(group_)->envname(EnvironmentName(flag));
  }

  void Size(const std::string& flag, int64_t& variable, const std::string& help, int64_t least) {
    Size(
        flag, [&variable](int64_t bytes) { variable = bytes; }, SizeText(variable), help, least);
  }

  void Size(const std::string& flag, std::function<void(int64_t)> set,
            const std::string& default_text, const std::string& help, int64_t least) {
    CLI::Option* option = app_.add_option_function<uint64_t>(
        flag, [set = std::move(set)](uint64_t bytes) { set(static_cast<int64_t>(bytes)); },
        help + " (bytes, or with KiB, MiB, GiB)");
    option->group(group_)
        ->envname(EnvironmentName(flag))
        ->type_name("SIZE")
        ->default_str(default_text)
        ->transform(CLI::AsSizeValue(false).description(""))
        ->check(CLI::Validator(
            [least](std::string& bytes) -> std::string {
              int64_t size = 0;
              if (absl::SimpleAtoi(bytes, &size) && size >= least && size <= kMaxSize) return "";
              return absl::StrCat("given ", bytes, ", expected ", SizeText(least), " to ",
                                  SizeText(kMaxSize));
            },
            ""));
  }

  template <typename T>
  void Choice(const std::string& flag, T& variable, const std::string& help,
              const std::map<std::string, T>& choices) {
    std::vector<std::string> names;
    std::string current;
    for (const auto& [name, value] : choices) {
      names.push_back(name);
      if (value == variable) current = name;
    }
    app_.add_option_function<std::string>(
            flag, [&variable, &choices](const std::string& name) { variable = choices.at(name); },
            help)
        ->group(group_)
        ->envname(EnvironmentName(flag))
        ->type_name(absl::StrJoin(names, "|"))
        ->default_str(current)
        ->check(CLI::IsMember(names).description(""));
  }

  CLI::App& app_;
  std::string group_;
};

// The file that --config or ATTND_CONFIG names; empty if neither does.
std::string ConfigFile(absl::Span<const std::string> arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (absl::ConsumePrefix(&argument, "--config=")) return std::string(argument);
    if (argument == "--config" && i + 1 < arguments.size()) return arguments[i + 1];
  }
  const char* path = std::getenv("ATTND_CONFIG");
  return path == nullptr ? "" : path;
}

// The file as flags that stand before the given ones, without those that the environment or the
// command line set. Keys are the flags' names: "max-batch-calls: 16", "workers: [a:1, b:2]".
absl::Status ReadFile(const std::string& path, const CLI::App& app,
                      absl::Span<const std::string> arguments, std::vector<std::string>& flags) {
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (root.IsNull()) return absl::OkStatus();
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": expected lines of \"flag: value\""));
    }
    for (const auto& entry : root) {
      const std::string flag = absl::StrCat(kFlagPrefix, entry.first.as<std::string>());
      if (flag == "--config" || app.get_option_no_throw(flag) == nullptr) {
        return absl::InvalidArgumentError(absl::StrCat(path, ":", entry.first.Mark().line + 1,
                                                       ": unknown setting ", flag.substr(2)));
      }
      const bool given =
          std::any_of(arguments.begin(), arguments.end(), [&flag](const std::string& argument) {
            return argument == flag || absl::StartsWith(argument, flag + "=");
          });
      if (given || std::getenv(EnvironmentName(flag).c_str()) != nullptr) continue;
      std::string value;
      if (entry.second.IsSequence()) {
        value = absl::StrJoin(entry.second.as<std::vector<std::string>>(), ",");
      } else {
        value = entry.second.as<std::string>();
      }
      flags.push_back(absl::StrCat(flag, "=", value));
    }
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", e.what()));
  }
  return absl::OkStatus();
}

// What the kernel and gRPC take for a socket's path.
constexpr absl::string_view kUnixPrefix = "unix:";
constexpr size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;
constexpr absl::string_view kSocketPath = "absolute and of at most 107 bytes";
static_assert(kMaxSocketPath == 107);

bool IsSocketPath(absl::string_view path) {
  return absl::StartsWith(path, "/") && path.size() <= kMaxSocketPath;
}

bool IsHostAndPort(absl::string_view text) {
  const size_t colon = text.rfind(':');
  int port = 0;
  return colon != absl::string_view::npos && colon > 0 &&
         absl::SimpleAtoi(text.substr(colon + 1), &port) && port > 0 && port < 65536;
}

absl::Status CheckWorkers(const std::vector<std::string>& workers) {
  for (size_t i = 0; i < workers.size(); ++i) {
    absl::string_view path = workers[i];
    if (!(absl::ConsumePrefix(&path, kUnixPrefix) ? IsSocketPath(path) : IsHostAndPort(path))) {
      return absl::InvalidArgumentError(absl::StrCat("--workers: given \"", workers[i],
                                                     "\", expected host:port or unix:/path, ",
                                                     kSocketPath));
    }
    // Its launches and metrics would be counted twice.
    if (std::find(workers.begin(), workers.begin() + static_cast<ptrdiff_t>(i), workers[i]) !=
        workers.begin() + static_cast<ptrdiff_t>(i)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--workers: given \"", workers[i], "\" twice, expected each worker once"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTogether(const Config& config) {
  if (config.mode == Mode::kRouter && config.workers.empty()) {
    return absl::InvalidArgumentError("attnd router needs --workers=host:port,unix:/path,...");
  }
  if (config.mode != Mode::kRouter && !config.workers.empty()) {
    return absl::InvalidArgumentError("--workers is for attnd router");
  }
  if (absl::Status s = CheckWorkers(config.workers); !s.ok()) return s;
  if (!config.socket.empty() && !IsSocketPath(config.socket)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--socket: given \"", config.socket, "\", expected /path, ", kSocketPath));
  }
  if (config.max_message_bytes > (int64_t{2} << 30) - 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-message-bytes: given ", config.max_message_bytes, ", expected less than 2GiB"));
  }
  if (!config.state_dir.empty() && !config.state_url.empty()) {
    return absl::InvalidArgumentError("--state-dir and --state-url: given both, expected one");
  }
  if (config.queue_bytes < config.max_message_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("--queue-bytes: given ", config.queue_bytes,
                                                   ", expected at least --max-message-bytes, ",
                                                   config.max_message_bytes));
  }
  return absl::OkStatus();
}

ParsedConfig End(int code, std::string text) {
  ParsedConfig parsed;
  parsed.end = true;
  parsed.exit_code = code;
  parsed.text = std::move(text);
  return parsed;
}

ParsedConfig Mistake(absl::string_view what) {
  return End(2, absl::StrCat("attnd: ", what, "\nTry: attnd --help\n"));
}

}  // namespace

absl::string_view Name(Mode mode) {
  switch (mode) {
    case Mode::kServe:
      return "serve";
    case Mode::kRouter:
      return "router";
    case Mode::kWorker:
      return "worker";
    case Mode::kVersion:
      return "version";
  }
  return "unknown";
}

ParsedConfig ParseConfig(absl::Span<const std::string> arguments) {
  ParsedConfig parsed;
  Config& config = parsed.config;
  CLI::App app(
      "Attention operators over gRPC.\nEvery flag may also be set by its environment variable "
      "(--max-batch-calls: ATTND_MAX_BATCH_CALLS) or as a line of the --config file "
      "(max-batch-calls: 16); flags come first, then the environment, then the file.",
      "attnd");
  app.require_subcommand(0, 1);
  std::string path;
  app.add_option("--config", path, "YAML file with settings (ATTND_CONFIG)");
  Flags flags(app, config);
  const std::map<Mode, std::string> modes = {
      {Mode::kServe, "router and worker in one process"},
      {Mode::kRouter, "the front: takes calls, batches them, hands them to workers"},
      {Mode::kWorker, "runs the operators for routers"},
      {Mode::kVersion, "print the version"}};
  for (const auto& [mode, help] : modes) {
    CLI::App* command = app.add_subcommand(std::string(Name(mode)), help);
    command->fallthrough();
    command->set_help_flag();
    command->callback([&config, m = mode] { config.mode = m; });
  }

  path = ConfigFile(arguments);
  std::vector<std::string> all;
  if (!path.empty()) {
    if (absl::Status s = ReadFile(path, app, arguments, all); !s.ok()) return Mistake(s.message());
  }
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::reverse(all.begin(), all.end());  // The parser takes them from the back.
  try {
    app.parse(std::move(all));
  } catch (const CLI::CallForHelp&) {
    return End(0, app.get_formatter()->make_help(&app, "attnd", CLI::AppFormatMode::Normal));
  } catch (const CLI::ParseError& e) {
    return Mistake(e.what());
  }
  if (app.get_subcommands().empty()) {
    return Mistake("given no command, expected serve, router, worker or version");
  }
  if (absl::Status s = CheckTogether(config); !s.ok()) return Mistake(s.message());
  return parsed;
}

}  // namespace attnd
