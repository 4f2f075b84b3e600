#include "bench/idle_sessions.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "attnd/client.h"
#include "attnd/sessions.h"
#include "bench/load.h"

namespace attnd::bench {
namespace {

using nlohmann::json;

enum class Kind : uint8_t { kLong, kFork, kShort };

Kind KindOf(int index, int count) {
  if (index < std::max(1, count / 1000)) return Kind::kLong;
  return index % 50 == 49 ? Kind::kFork : Kind::kShort;
}

const char* NameOf(Kind kind) {
  if (kind == Kind::kShort) return "prompts of 16 to 64 tokens";
  return kind == Kind::kLong ? "prompts of 600 to 1600 tokens" : "forks of those";
}

std::string IdOf(int index) { return absl::StrFormat("idle-%07d", index); }

client::Sessions Connect(const std::string& target) {
  absl::StatusOr<client::Client> client = client::Client::Connect(target);
  if (!client.ok()) throw std::runtime_error(client.status().ToString());
  return client::Sessions(*client);
}

// run(i) for every i in [begin, end), some at a time; the first error ends it.
void Spread(int begin, int end, int in_flight, const std::function<absl::Status(int)>& run) {
  std::atomic<int> next = begin;
  absl::Mutex mutex;
  absl::Status failed;
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(in_flight));
  for (int t = 0; t < in_flight; ++t) {
    threads.emplace_back([&] {
      for (int i = next++; i < end; i = next++) {
        const absl::Status status = run(i);
        if (status.ok()) continue;
        absl::MutexLock lock(&mutex);
        failed.Update(status);
        next = end;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (!failed.ok()) throw std::runtime_error(failed.ToString());
}

absl::Status Make(const client::Sessions& sessions, const IdleLoad& load, int index) {
  const Kind kind = KindOf(index, load.count);
  std::mt19937_64 random(load.seed * 1000003 + static_cast<uint64_t>(index));
  if (kind == Kind::kFork) {
    v1::ForkRequest fork;
    fork.set_session(IdOf(static_cast<int>(random() % std::max(1, load.count / 1000))));
    fork.set_new_session(IdOf(index));
    fork.set_seed(random());
    return sessions.Fork(fork).status();
  }
  v1::CreateSessionRequest create;
  create.set_session(IdOf(index));
  create.set_model(load.model);
  create.set_seed(random());
  absl::Status status = sessions.Create(create).status();
  if (!status.ok()) return status;
  v1::AppendRequest append;
  append.set_session(IdOf(index));
  const uint64_t length = kind == Kind::kLong ? 600 + random() % 1001 : 16 + random() % 49;
  for (uint64_t i = 0; i < length; ++i) append.add_tokens(static_cast<uint32_t>(random() % 256));
  return sessions.Append(append).status();
}

}  // namespace

json Fill(const std::string& target, const IdleLoad& load) {
  const client::Sessions sessions = Connect(target);
  const absl::Time begin = absl::Now();
  const int parents = std::max(1, load.count / 1000);
  const auto make = [&](int index) { return Make(sessions, load, index); };
  Spread(0, parents, load.in_flight, make);
  Spread(parents, load.count, load.in_flight, make);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  return {{"sessions", load.count}, {"seconds", seconds}};
}

json Resume(const std::string& target, const IdleLoad& load) {
  const client::Sessions sessions = Connect(target);
  std::vector<int> chosen(static_cast<size_t>(load.count));
  std::iota(chosen.begin(), chosen.end(), 0);
  std::mt19937_64 random(load.seed);
  std::shuffle(chosen.begin(), chosen.end(), random);
  chosen.resize(static_cast<size_t>(std::min(load.resumed, load.count)));
  absl::Mutex mutex;
  LoadResult all;
  std::map<Kind, LoadResult> by_kind;
  const absl::Time begin = absl::Now();
  Spread(0, static_cast<int>(chosen.size()), load.in_flight, [&](int i) {
    const int index = chosen[static_cast<size_t>(i)];
    v1::DecodeRequest decode;
    decode.set_session(IdOf(index));
    decode.set_max_new_tokens(static_cast<uint32_t>(load.tokens));
    decode.mutable_stop()->set_ignore_eos(true);
    const absl::Time start = absl::Now();
    absl::Time first = absl::InfiniteFuture();
    absl::Status status = sessions.Decode(decode, [&](const v1::DecodeEvent&) {
      first = std::min(first, absl::Now());
      return true;
    });
    if (!status.ok()) return status;
    absl::MutexLock lock(&mutex);
    const double latency = absl::ToDoubleMicroseconds(first - start);
    for (LoadResult* result : {&all, &by_kind[KindOf(index, load.count)]}) {
      ++result->calls;
      result->latencies_us.push_back(latency);
    }
    return absl::OkStatus();
  });
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  const auto summary = [&](LoadResult& result) {
    result.seconds = seconds;
    std::sort(result.latencies_us.begin(), result.latencies_us.end());
    return Summary(result);
  };
  json report = {{"all", summary(all)}};
  for (auto& [kind, result] : by_kind) report["kinds"][NameOf(kind)] = summary(result);
  return report;
}

}  // namespace attnd::bench
