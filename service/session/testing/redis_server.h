// A redis-server of a test's own, on a socket in the test's folder.
#ifndef ATTND_SERVICE_SESSION_TESTING_REDIS_SERVER_H_
#define ATTND_SERVICE_SESSION_TESTING_REDIS_SERVER_H_

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/session/redis_connection.h"

namespace attnd {

class RedisServer {
 public:
  static constexpr char kMissing[] =
      "SKIPPED: redis-server is not installed, nothing of the Redis store is tested "
      "(deploy/packages-test.txt)";

  static bool Installed() {
    if (std::system("redis-server --version > /dev/null 2>&1") == 0) return true;
    std::fprintf(stderr, "%s\n", kMissing);
    return false;
  }

  // `settings` stand behind the usual ones: a file that is synced at each write, no snapshots.
  explicit RedisServer(std::vector<std::string> settings = {})
      : folder_(absl::StrCat("/tmp/attnd_redis_", std::random_device()())),
        settings_(std::move(settings)) {
    std::filesystem::create_directories(folder_);
    Start();
  }
  ~RedisServer() {
    Kill();
    std::filesystem::remove_all(folder_);
  }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  std::string url() const { return absl::StrCat("redis+unix://", folder_, "/socket"); }
  RedisAddress address() const { return ParseRedisUrl(url()).value(); }

  // Starts it on what an earlier one left in its files; returns once it answers, or after a while.
  void Start() {
    std::vector<std::string> words = {"redis-server",
                                      "--port",
                                      "0",
                                      "--unixsocket",
                                      folder_ + "/socket",
                                      "--dir",
                                      folder_,
                                      "--save",
                                      "",
                                      "--appendonly",
                                      "yes",
                                      "--appendfsync",
                                      "always",
                                      "--logfile",
                                      folder_ + "/log"};
    words.insert(words.end(), settings_.begin(), settings_.end());
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    if (posix_spawnp(&pid_, "redis-server", nullptr, nullptr, arguments.data(), environ) != 0) {
      pid_ = 0;
      return;
    }
    const absl::Time limit = absl::Now() + absl::Seconds(30);
    const RedisConnection::Command ping = {"PING"};
    for (RedisConnection probe(address()); !probe.Run({&ping, 1}).ok() && absl::Now() < limit;) {
      absl::SleepFor(absl::Milliseconds(10));
    }
  }

  void Signal(int signal) const { kill(pid_, signal); }

  void Kill() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

 private:
  const std::string folder_;
  const std::vector<std::string> settings_;
  pid_t pid_ = 0;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_TESTING_REDIS_SERVER_H_
