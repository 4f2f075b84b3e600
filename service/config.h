// What an operator of the service may set: flags, ATTND_* environment variables, a YAML file.
#ifndef ATTND_SERVICE_CONFIG_H_
#define ATTND_SERVICE_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "service/log.h"

namespace attnd {

enum class Mode : uint8_t { kServe, kRouter, kWorker, kVersion };

// "serve", "router", "worker", "version".
absl::string_view Name(Mode mode);

struct Config {
  Mode mode = Mode::kServe;

  std::string address = "0.0.0.0";
  int port = 8001;          // 0: any free one.
  std::string socket;       // A Unix socket to listen on as well, by its path; empty: none.
  int metrics_port = 8002;  // 0: any free one; -1: none.
  std::string port_file;    // Empty: none is written.

  std::vector<std::string> workers;  // Router only: host:port or unix:/path.
  int worker_streams = 2;            // Router only: launches under way at one worker.

  std::string device = "auto";
  int executors = 0;
  int cpu_threads = 0;
  std::optional<int64_t> memory_limit;  // 0: none; not given: half of what the machine has.

  int64_t max_message_bytes = int64_t{64} << 20;
  int64_t max_tensor_bytes = int64_t{4} << 30;
  int64_t max_call_bytes = int64_t{8} << 30;
  int64_t max_buffer_bytes = int64_t{8} << 30;
  int max_streams = 1024;

  int queue_calls = 1024;
  int64_t queue_bytes = int64_t{2} << 30;
  int max_batch_calls = 64;
  int64_t max_batch_bytes = int64_t{32} << 20;

  double sequence_idle_seconds = 600;
  int max_sequences = 10000;
  int64_t max_sequence_bytes = int64_t{4} << 30;

  std::string models;     // Directory of language models, one folder each; empty: none.
  std::string state_dir;  // Of sessions' logs and states; both empty: memory.
  std::string state_url;  // The same, of a Redis server.
  int64_t max_store_bytes = 0;
  double session_idle_seconds = 86400;
  int64_t max_sessions = 1000000;
  int64_t max_checkpoint_bytes = int64_t{256} << 20;
  int64_t max_session_log_bytes = int64_t{64} << 20;
  int64_t max_session_bytes = int64_t{2} << 30;

  double drain_seconds = 30;
  int drain_notice_ms = 250;

  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kJson;
};

// What tensors in host memory may take, where the machine has `machine_bytes` (0: unknown); 0: no
// limit.
inline int64_t HostMemoryLimit(const Config& config, int64_t machine_bytes) {
  return config.memory_limit.value_or(machine_bytes / 2);
}

struct ParsedConfig {
  // Set if the program should end now: 0 after --help, 2 after a mistake. `text` is then what to
  // print.
  bool end = false;
  int exit_code = 0;
  std::string text;
  Config config;
};

// `arguments` without the program's name. A flag beats the environment, which beats the file that
// --config (or ATTND_CONFIG) names.
ParsedConfig ParseConfig(absl::Span<const std::string> arguments);

}  // namespace attnd

#endif  // ATTND_SERVICE_CONFIG_H_
