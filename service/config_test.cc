#include "service/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace attnd {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

std::string WriteFile(const std::string& text) {
  std::string path = testing::TempDir() + "/config_test.yaml";
  std::ofstream(path) << text;
  return path;
}

TEST(ConfigTest, Defaults) {
  const ParsedConfig parsed = ParseConfig({"serve"});
  ASSERT_FALSE(parsed.end) << parsed.text;
  EXPECT_EQ(parsed.config.mode, Mode::kServe);
  EXPECT_EQ(parsed.config.port, 8001);
  EXPECT_EQ(parsed.config.metrics_port, 8002);
  EXPECT_EQ(parsed.config.max_message_bytes, 64 << 20);
  EXPECT_EQ(parsed.config.log_format, LogFormat::kJson);
}

TEST(ConfigTest, TheMemoryLimitFollowsTheMachineUnlessItIsGiven) {
  EXPECT_EQ(HostMemoryLimit(ParseConfig({"serve"}).config, 1000), 500);
  EXPECT_EQ(HostMemoryLimit(ParseConfig({"serve", "--memory-limit=1KiB"}).config, 1000), 1024);
  EXPECT_EQ(HostMemoryLimit(ParseConfig({"serve", "--memory-limit=0"}).config, 1000), 0);
  EXPECT_THAT(ParseConfig({"--help"}).text, HasSubstr("half of the machine's"));
}

TEST(ConfigTest, FlagsStandBeforeAndAfterTheCommand) {
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"serve", "--port=0", "--queue-bytes", "128MiB", "--log-level=debug"},
           {"--port=0", "--queue-bytes", "128MiB", "serve", "--log-level=debug"}}) {
    const ParsedConfig parsed = ParseConfig(arguments);
    ASSERT_FALSE(parsed.end) << parsed.text;
    EXPECT_EQ(parsed.config.port, 0);
    EXPECT_EQ(parsed.config.queue_bytes, 128 << 20);
    EXPECT_EQ(parsed.config.log_level, LogLevel::kDebug);
  }
}

TEST(ConfigTest, UnixSocketsAreAbsolutePaths) {
  const ParsedConfig parsed = ParseConfig({"router", "--workers=unix:/run/a.sock,b:2"});
  ASSERT_FALSE(parsed.end) << parsed.text;
  EXPECT_THAT(parsed.config.workers, ElementsAre("unix:/run/a.sock", "b:2"));
  EXPECT_EQ(ParseConfig({"worker", "--socket=/run/a.sock"}).config.socket, "/run/a.sock");
  const std::string longest = "/" + std::string(106, 'x');
  EXPECT_FALSE(ParseConfig({"worker", "--socket=" + longest}).end);
  EXPECT_FALSE(ParseConfig({"router", "--workers=unix:" + longest}).end);
  for (const std::string& path : {std::string("a.sock"), std::string("./a"), longest + "x"}) {
    const ParsedConfig socket = ParseConfig({"worker", "--socket=" + path});
    EXPECT_EQ(socket.exit_code, 2);
    EXPECT_THAT(socket.text, AllOf(HasSubstr("--socket"), HasSubstr(path), HasSubstr("absolute")));
    const ParsedConfig workers = ParseConfig({"router", "--workers=unix:" + path});
    EXPECT_EQ(workers.exit_code, 2);
    EXPECT_THAT(workers.text, AllOf(HasSubstr("--workers"), HasSubstr(path)));
  }
}

TEST(ConfigTest, WorkersAreAList) {
  const ParsedConfig parsed = ParseConfig({"router", "--workers=a:1,b:2"});
  ASSERT_FALSE(parsed.end) << parsed.text;
  EXPECT_THAT(parsed.config.workers, ElementsAre("a:1", "b:2"));
}

TEST(ConfigTest, FlagBeatsEnvironmentBeatsFile) {
  const std::string file =
      WriteFile("port: 1\nmetrics-port: 1\nmax-batch-calls: 1\nworkers: [a:1, b:2]\n");
  const Variable port("ATTND_PORT", "2");
  const Variable metrics("ATTND_METRICS_PORT", "2");
  const ParsedConfig parsed = ParseConfig({"router", "--config=" + file, "--port=3"});
  ASSERT_FALSE(parsed.end) << parsed.text;
  EXPECT_EQ(parsed.config.port, 3);
  EXPECT_EQ(parsed.config.metrics_port, 2);
  EXPECT_EQ(parsed.config.max_batch_calls, 1);
  EXPECT_THAT(parsed.config.workers, ElementsAre("a:1", "b:2"));
}

TEST(ConfigTest, FileNamedByTheEnvironment) {
  const Variable config("ATTND_CONFIG", WriteFile("max-tensor-bytes: 1GiB\nlog-format: text\n"));
  const ParsedConfig parsed = ParseConfig({"worker"});
  ASSERT_FALSE(parsed.end) << parsed.text;
  EXPECT_EQ(parsed.config.max_tensor_bytes, 1 << 30);
  EXPECT_EQ(parsed.config.log_format, LogFormat::kText);
}

TEST(ConfigTest, HelpNamesEveryFlagWithItsDefault) {
  for (const auto& arguments :
       std::vector<std::vector<std::string>>{{"--help"}, {"serve", "--help"}}) {
    const ParsedConfig parsed = ParseConfig(arguments);
    EXPECT_TRUE(parsed.end);
    EXPECT_EQ(parsed.exit_code, 0);
    for (const char* part : {"--port", "8001", "--max-message-bytes", "64MiB", "--drain-seconds",
                             "30", "ATTND_QUEUE_CALLS", "1024", "--log-format", "json"}) {
      EXPECT_THAT(parsed.text, HasSubstr(part));
    }
  }
}

struct Mistaken {
  std::vector<std::string> arguments;
  std::string names;  // What the message must name.
};

TEST(ConfigTest, MistakesAreNamedAndExitWith2) {
  const std::string unknown = WriteFile("portt: 1\n");
  const std::vector<Mistaken> cases = {
      {{}, "expected serve, router, worker or version"},
      {{"sreve"}, "sreve"},
      {{"--port=0"}, "expected serve, router, worker or version"},
      {{"serve", "--port=70000"}, "--port"},
      {{"serve", "--port=x"}, "--port"},
      {{"serve", "--prot=1"}, "--prot"},
      {{"serve", "--queue-bytes=12parsecs"}, "--queue-bytes"},
      {{"serve", "--queue-bytes=1MiB"}, "--queue-bytes"},
      {{"serve", "--queue-bytes=-5"}, "--queue-bytes"},
      {{"serve", "--max-batch-calls=0"}, "--max-batch-calls"},
      {{"serve", "--log-level=loud"}, "--log-level"},
      {{"serve", "--drain-seconds=-1"}, "--drain-seconds"},
      {{"serve", "--max-message-bytes=2GiB"}, "--max-message-bytes"},
      {{"serve", "--workers=a:1"}, "--workers"},
      {{"router"}, "--workers"},
      {{"serve", "--max-tensor-bytes=1"}, "given 1, expected 64KiB to 1024TiB"},
      {{"router", "--workers=a"}, "host:port"},
      {{"router", "--workers=:1"}, "host:port"},
      {{"router", "--workers=a:"}, "host:port"},
      {{"router", "--workers=a:b"}, "host:port"},
      {{"router", "--workers=a:65536"}, "host:port"},
      {{"router", "--workers=a:1,b:1,a:1"}, "\"a:1\" twice"},
      {{"serve", "--state-dir=/tmp/a", "--state-url=redis://b"}, "--state-url: given both"},
      {{"serve", "--config=/does/not/exist.yaml"}, "/does/not/exist.yaml"},
      {{"serve", "--config=" + unknown}, "portt"},
  };
  for (const Mistaken& c : cases) {
    const ParsedConfig parsed = ParseConfig(c.arguments);
    EXPECT_TRUE(parsed.end) << c.names;
    EXPECT_EQ(parsed.exit_code, 2) << c.names;
    EXPECT_THAT(parsed.text, HasSubstr(c.names));
  }
}

TEST(ConfigTest, WrongEnvironmentIsNamed) {
  const Variable port("ATTND_PORT", "many");
  const ParsedConfig parsed = ParseConfig({"serve"});
  EXPECT_EQ(parsed.exit_code, 2);
  EXPECT_THAT(parsed.text, HasSubstr("many"));
}

}  // namespace
}  // namespace attnd
