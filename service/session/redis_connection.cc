#include "service/session/redis_connection.h"

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "service/session/fault_point.h"

namespace attnd {
namespace {

constexpr timeval kConnectTimeout = {2, 0};
constexpr timeval kReplyTimeout = {5, 0};
constexpr absl::Duration kPause = absl::Milliseconds(100);
constexpr absl::string_view kForm =
    "redis://[[user]:password@]host[:port][/database][?prefix=text&replicas=number] or "
    "redis+unix:///path[?database=number&prefix=text&replicas=number]";

absl::Status BadUrl(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("Redis URL: ", what, ", expected ", kForm));
}

absl::StatusOr<std::string> Unescape(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    const absl::string_view digits = text.substr(i + 1, 2);
    int byte = 0;
    if (digits.size() != 2 || !absl::SimpleHexAtoi(digits, &byte)) {
      return BadUrl("a % without two hexadecimal digits");
    }
    out.push_back(static_cast<char>(byte));
    i += 2;
  }
  return out;
}

absl::Status ReadNumber(absl::string_view name, absl::string_view text, int most, int& number) {
  if (absl::SimpleAtoi(text, &number) && number >= 0 && number <= most) return absl::OkStatus();
  return BadUrl(absl::StrCat(name, " given as \"", text, "\""));
}

absl::Status ReadOption(absl::string_view option, RedisAddress& address) {
  const std::pair<absl::string_view, absl::string_view> pair =
      absl::StrSplit(option, absl::MaxSplits('=', 1));
  if (pair.first == "replicas") {
    return ReadNumber("replicas", pair.second, 100, address.replicas);
  }
  if (pair.first == "database") {
    return ReadNumber("database", pair.second, 1 << 20, address.database);
  }
  if (pair.first != "prefix") return BadUrl(absl::StrCat("option \"", pair.first, "\" given"));
  absl::StatusOr<std::string> prefix = Unescape(pair.second);
  if (!prefix.ok()) return prefix.status();
  address.prefix = *std::move(prefix);
  return absl::OkStatus();
}

absl::Status ReadServer(absl::string_view text, RedisAddress& address) {
  if (const size_t at = text.rfind('@'); at != absl::string_view::npos) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(text.substr(0, at), absl::MaxSplits(':', 1));
    absl::StatusOr<std::string> user = Unescape(pair.first);
    if (!user.ok()) return user.status();
    absl::StatusOr<std::string> password = Unescape(pair.second);
    if (!password.ok()) return password.status();
    if (password->empty()) return BadUrl("no password before @");
    address.user = *std::move(user);
    address.password = *std::move(password);
    text.remove_prefix(at + 1);
  }
  if (const size_t slash = text.find('/'); slash != absl::string_view::npos) {
    const absl::string_view database = text.substr(slash + 1);
    text = text.substr(0, slash);
    if (!database.empty()) {
      if (absl::Status s = ReadNumber("database", database, 1 << 20, address.database); !s.ok())
        return s;
    }
  }
  // An IPv6 address has its colons between brackets.
  const size_t colon = text.rfind(':');
  const size_t bracket = text.rfind(']');
  if (colon != absl::string_view::npos && (bracket == absl::string_view::npos || colon > bracket)) {
    if (absl::Status s = ReadNumber("port", text.substr(colon + 1), 65535, address.port); !s.ok())
      return s;
    text = text.substr(0, colon);
  }
  if (absl::ConsumePrefix(&text, "[") && !absl::ConsumeSuffix(&text, "]")) {
    return BadUrl("an address without its bracket");
  }
  if (text.empty()) return BadUrl("no host given");
  address.host = std::string(text);
  return absl::OkStatus();
}

// What the server answered instead. Its words name keys and settings, no secret.
absl::Status FromReply(const redisReply& reply) {
  const absl::string_view text(reply.str, reply.len);
  const std::string message = absl::StrCat("Redis: ", text);
  if (absl::StartsWith(text, "OOM") || absl::StrContains(text, "No space left")) {
    return absl::ResourceExhaustedError(message);
  }
  // Not now, or not here: the server loads, fails over, or cannot write its files.
  for (const absl::string_view passing :
       {"LOADING", "READONLY", "MASTERDOWN", "MISCONF", "BUSY", "NOREPLICAS", "CLUSTERDOWN",
        "TRYAGAIN", "NOAUTH", "WRONGPASS", "ERR max number of clients"}) {
    if (absl::StartsWith(text, passing)) {
      return absl::UnavailableError(
          absl::StrCat("the sessions' Redis cannot serve now (", text, "): repeat the call later"));
    }
  }
  // A value that is not what was put there.
  if (absl::StartsWith(text, "WRONGTYPE") || absl::StrContains(text, "not an integer")) {
    return absl::DataLossError(message);
  }
  return absl::InternalError(message);
}

}  // namespace

absl::StatusOr<RedisAddress> ParseRedisUrl(absl::string_view url) {
  RedisAddress address;
  const std::pair<absl::string_view, absl::string_view> halves =
      absl::StrSplit(url, absl::MaxSplits('?', 1));
  absl::string_view place = halves.first;
  if (absl::ConsumePrefix(&place, "redis+unix://")) {
    if (!absl::StartsWith(place, "/")) return BadUrl("a path that does not begin with / given");
    address.socket = std::string(place);
  } else if (absl::ConsumePrefix(&place, "redis://")) {
    if (absl::Status s = ReadServer(place, address); !s.ok()) return s;
  } else {
    return BadUrl("another scheme given");
  }
  for (const absl::string_view option : absl::StrSplit(halves.second, '&', absl::SkipEmpty())) {
    if (absl::Status s = ReadOption(option, address); !s.ok()) return s;
  }
  return address;
}

absl::Status RedisConnection::Lost(absl::string_view what) {
  context_.reset();
  next_try_ = absl::Now() + kPause;
  return absl::UnavailableError(
      absl::StrCat("the sessions' Redis cannot be reached (", what, "): repeat the call later"));
}

absl::Status RedisConnection::Connect() {
  if (absl::Now() < next_try_) {
    return absl::UnavailableError(
        "the sessions' Redis could not be reached a moment ago: repeat the call later");
  }
  // The library writes to sockets that may be closed: an error then, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  context_.reset(
      address_.socket.empty()
          ? redisConnectWithTimeout(address_.host.c_str(), address_.port, kConnectTimeout)
          : redisConnectUnixWithTimeout(address_.socket.c_str(), kConnectTimeout));
  if (context_ == nullptr) return Lost("no memory");
  if (context_->err != 0) return Lost("no connection");
  if (redisSetTimeout(context_.get(), kReplyTimeout) != REDIS_OK) return Lost("no connection");
  if (address_.socket.empty()) redisEnableKeepAlive(context_.get());
  std::vector<Command> greeting;
  if (!address_.password.empty()) {
    greeting.push_back({"AUTH"});
    if (!address_.user.empty()) greeting.back().push_back(address_.user);
    greeting.back().push_back(address_.password);
  }
  const std::string database = absl::StrCat(address_.database);
  if (address_.database != 0) greeting.push_back({"SELECT", database});
  std::vector<Reply> replies;
  absl::Status status = Send(greeting, replies);
  if (!status.ok()) context_.reset();
  return status;
}

absl::Status RedisConnection::Send(absl::Span<const Command> commands,
                                   std::vector<Reply>& replies) {
  closed_ = false;
  for (const Command& command : commands) {
    std::vector<const char*> words;
    std::vector<size_t> sizes;
    for (const absl::string_view word : command) {
      words.push_back(word.data());
      sizes.push_back(word.size());
    }
    if (redisAppendCommandArgv(context_.get(), static_cast<int>(words.size()), words.data(),
                               sizes.data()) != REDIS_OK) {
      return Lost("no memory");
    }
  }
  // What cannot be written shows where the replies are read.
  for (int sent = 0; sent == 0 && redisBufferWrite(context_.get(), &sent) == REDIS_OK;) {
  }
  FaultPoint("redis.sent");
  absl::Status failed;
  for (size_t i = 0; i < commands.size(); ++i) {
    void* reply = nullptr;
    if (redisGetReply(context_.get(), &reply) != REDIS_OK) {
      closed_ = context_->err == REDIS_ERR_EOF ||
                (context_->err == REDIS_ERR_IO && (errno == EPIPE || errno == ECONNRESET));
      return Lost(closed_ ? "closed" : "no answer");
    }
    replies.emplace_back(static_cast<redisReply*>(reply));
    // The others' replies must be read all the same.
    if (replies.back()->type == REDIS_REPLY_ERROR) failed.Update(FromReply(*replies.back()));
  }
  return failed;
}

absl::StatusOr<std::vector<RedisConnection::Reply>> RedisConnection::Run(
    absl::Span<const Command> commands) {
  for (bool again = false;; again = true) {
    if (context_ == nullptr) {
      if (absl::Status s = Connect(); !s.ok()) return s;
    }
    std::vector<Reply> replies;
    absl::Status status = Send(commands, replies);
    if (status.ok()) return replies;
    if (context_ != nullptr || !closed_ || again) return status;
    next_try_ = absl::InfinitePast();
  }
}

}  // namespace attnd
