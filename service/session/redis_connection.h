// A connection to a Redis server that comes back when it was lost.
#ifndef ATTND_SERVICE_SESSION_REDIS_CONNECTION_H_
#define ATTND_SERVICE_SESSION_REDIS_CONNECTION_H_

#include <hiredis/hiredis.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace attnd {

// Where a Redis server is, and how sessions are kept there.
struct RedisAddress {
  std::string host;
  int port = 6379;
  std::string socket;  // Instead of host and port.
  std::string user;
  std::string password;
  int database = 0;
  std::string prefix = "attnd:";  // Of every key.
  int replicas = 0;               // That must have a write before it is as durable as SYNC asks.
};

// "redis://[[user]:password@]host[:port][/database][?prefix=text&replicas=number]" or
// "redis+unix:///path[?database=number&...]"; user, password and prefix may hold %XX.
// INVALID_ARGUMENT saying what is expected, without the password.
absl::StatusOr<RedisAddress> ParseRedisUrl(absl::string_view url);

// For one thread at a time.
class RedisConnection {
 public:
  struct Free {
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  using Reply = std::unique_ptr<redisReply, Free>;
  using Command = std::vector<absl::string_view>;

  explicit RedisConnection(RedisAddress address) : address_(std::move(address)) {}

  // Sends all commands at once and gives their replies, none of them an error. If the connection
  // turns out to be closed they are sent once more over a new one: they must bear being repeated.
  // UNAVAILABLE if the server is out of reach, or says that it cannot serve now; then whether they
  // had an effect is not known. RESOURCE_EXHAUSTED if it has no memory or no disk for them;
  // DATA_LOSS where a value is not of the kind that was put; INTERNAL for other errors. After a
  // failure, calls fail at once for a moment rather than waiting each.
  absl::StatusOr<std::vector<Reply>> Run(absl::Span<const Command> commands);

 private:
  struct Close {
    void operator()(redisContext* context) const { redisFree(context); }
  };

  absl::Status Connect();
  absl::Status Send(absl::Span<const Command> commands, std::vector<Reply>& replies);
  absl::Status Lost(absl::string_view what);

  const RedisAddress address_;
  std::unique_ptr<redisContext, Close> context_;
  bool closed_ = false;  // By the server, when last used: a new connection may do.
  absl::Time next_try_ = absl::InfinitePast();
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_REDIS_CONNECTION_H_
