// What the service adds to gRPC. Run through bench/run.py, which starts the servers:
//   service_bench echo [--socket /path]   serves a bare echo; prints its port
//   service_bench small --target A --echo E [--seconds 5]   small evaluations against echoes
//   service_bench stream --target A --echo E [--mib 64]   a large tensor against a bare chunked
//   stream service_bench hop --server name=A ... --echo name=E ... [--seconds 5]   small
//   evaluations at
//     several servers, one at a time, against echoes as calls and on a stream
// Prints one JSON object.
#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "attnd/v1/operators.grpc.pb.h"
#include "bench/calls.h"
#include "bench/echo.grpc.pb.h"
#include "bench/echo_server.h"
#include "bench/hop.h"
#include "bench/load.h"

namespace attnd::bench {
namespace {

using nlohmann::json;

constexpr int64_t kChunk = int64_t{1} << 20;

json Small(const std::string& target, const std::string& echo, double seconds) {
  const v1::EvaluateRequest request = SmallRequest();
  const std::string bytes = request.SerializeAsString();
  const StartCall evaluate = EvaluateCalls(target, request);
  const StartCall bounce = EchoCalls(echo, bytes);
  const absl::Duration duration = absl::Seconds(seconds);

  json report = {{"request_bytes", bytes.size()}};
  ClosedLoad(evaluate, 8, absl::Seconds(0.5));
  ClosedLoad(bounce, 8, absl::Seconds(0.5));
  for (int concurrency : {1, 8, 64}) {
    // Rounds alternate, so that what else the machine does hits both.
    LoadResult ours, bare;
    constexpr int kRounds = 10;
    for (int round = 0; round < kRounds; ++round) {
      ours.Add(ClosedLoad(evaluate, concurrency, duration / kRounds));
      bare.Add(ClosedLoad(bounce, concurrency, duration / kRounds));
    }
    report["closed"].push_back({{"concurrency", concurrency},
                                {"ratio", ours.CallsPerSecond() / bare.CallsPerSecond()},
                                {"evaluate", Summary(ours)},
                                {"echo", Summary(bare)}});
  }
  const double rate = 0.5 * report["closed"].back()["evaluate"]["calls_per_second"].get<double>();
  report["open"] = {{"rate", rate},
                    {"evaluate", Summary(OpenLoad(evaluate, rate, duration))},
                    {"echo", Summary(OpenLoad(bounce, rate, duration))}};

  // 64 calls, one after another and all at once.
  const auto time_calls = [&](int in_flight) {
    constexpr int kCalls = 64;
    std::vector<double> samples;
    for (int repeat = 0; repeat < 20; ++repeat) {
      absl::Mutex mutex;
      int started = 0, finished = 0;
      const absl::Time begin = absl::Now();
      while (finished < kCalls) {
        {
          absl::MutexLock lock(&mutex);
          const auto room = [&] { return started - finished < in_flight || finished == kCalls; };
          mutex.Await(absl::Condition(&room));
          if (started == kCalls) {
            const auto all = [&] { return finished == kCalls; };
            mutex.Await(absl::Condition(&all));
            break;
          }
          ++started;
        }
        evaluate([&](bool) {
          absl::MutexLock lock(&mutex);
          ++finished;
        });
      }
      samples.push_back(absl::ToDoubleMicroseconds(absl::Now() - begin));
    }
    std::sort(samples.begin(), samples.end());
    return samples[samples.size() / 2];
  };
  const double sequential = time_calls(1);
  const double concurrent = time_calls(64);
  report["sixty_four_calls"] = {{"one_after_another_us", sequential},
                                {"at_once_us", concurrent},
                                {"speedup", sequential / concurrent}};
  return report;
}

// Sends `bytes` up in chunks and takes as many back; seconds.
double EchoStreamOnce(Echo::Stub& stub, const std::string& bytes) {
  grpc::ClientContext context;
  const absl::Time begin = absl::Now();
  auto stream = stub.Stream(&context);
  std::thread reader([&] {
    Blob back;
    while (stream->Read(&back)) {
    }
  });
  Blob chunk;
  for (size_t at = 0; at < bytes.size(); at += kChunk) {
    chunk.set_data(bytes.data() + at, std::min<size_t>(kChunk, bytes.size() - at));
    stream->Write(chunk);
  }
  stream->WritesDone();
  reader.join();
  stream->Finish();
  return absl::ToDoubleSeconds(absl::Now() - begin);
}

struct StreamRun {
  double seconds = 0;
  double compute_seconds = 0;
};

StreamRun EvaluateStreamOnce(v1::Operators::Stub& stub, const v1::EvaluateRequest& whole) {
  grpc::ClientContext context;
  const absl::Time begin = absl::Now();
  auto stream = stub.EvaluateStream(&context);
  StreamRun run;
  std::thread reader([&] {
    v1::EvaluateChunk chunk;
    while (stream->Read(&chunk)) {
      if (chunk.has_response())
        run.compute_seconds = 1e-6 * static_cast<double>(chunk.response().timing().compute_us());
    }
  });
  v1::EvaluateChunk chunk;
  v1::EvaluateRequest& header = *chunk.mutable_request();
  header.set_op(whole.op());
  *header.mutable_attributes() = whole.attributes();
  header.add_outputs("o");
  for (const auto& [name, tensor] : whole.inputs()) {
    v1::Tensor& announced = (*header.mutable_inputs())[name];
    announced.set_dtype(tensor.dtype());
    *announced.mutable_shape() = tensor.shape();
  }
  stream->Write(chunk);
  for (const auto& [name, tensor] : whole.inputs()) {
    const std::string& bytes = tensor.data();
    for (size_t at = 0; at < bytes.size(); at += kChunk) {
      v1::EvaluateChunk::Data& data = *chunk.mutable_data();
      data.set_tensor(name);
      data.set_offset(at);
      data.set_bytes(bytes.data() + at, std::min<size_t>(kChunk, bytes.size() - at));
      stream->Write(chunk);
    }
  }
  stream->WritesDone();
  reader.join();
  const grpc::Status status = stream->Finish();
  if (!status.ok()) std::cerr << "EvaluateStream: " << status.error_message() << "\n";
  run.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  return run;
}

json Stream(const std::string& target, const std::string& echo, int64_t mib) {
  auto operators = v1::Operators::NewStub(Connect(target));
  auto echoes = Echo::NewStub(Connect(echo));
  v1::EvaluateRequest request;
  request.set_op("short_conv");
  (*request.mutable_inputs())["x"] = RandomTensor({1, mib * 256, 1024});
  (*request.mutable_inputs())["weight"] = RandomTensor({1024, 1});
  (*request.mutable_attributes())["activation"].set_string_value("none");
  const std::string& bytes = request.inputs().at("x").data();

  std::vector<double> bare, ours, transfer;
  for (int repeat = 0; repeat < 7; ++repeat) {
    bare.push_back(EchoStreamOnce(*echoes, bytes));
    const StreamRun run = EvaluateStreamOnce(*operators, request);
    ours.push_back(run.seconds);
    transfer.push_back(run.seconds - run.compute_seconds);
  }
  const auto median = [](std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  };
  // Both directions carry the tensor once.
  const double total = 2.0 * static_cast<double>(bytes.size());
  return {{"tensor_bytes", bytes.size()},
          {"echo_bytes_per_second", total / median(bare)},
          {"evaluate_bytes_per_second", total / median(ours)},
          {"evaluate_bytes_per_second_without_compute", total / median(transfer)},
          {"ratio", median(bare) / median(ours)},
          {"ratio_without_compute", median(bare) / median(transfer)}};
}

// "name=value" pairs.
std::vector<std::pair<std::string, std::string>> Pairs(const std::vector<std::string>& texts) {
  std::vector<std::pair<std::string, std::string>> pairs;
  pairs.reserve(texts.size());
  for (const std::string& text : texts) {
    pairs.push_back(absl::StrSplit(text, absl::MaxSplits('=', 1)));
  }
  return pairs;
}

int Main(int argc, char** argv) {
  CLI::App app("What the service adds to gRPC");
  app.require_subcommand(1);
  std::string target, echo, socket;
  std::vector<std::string> servers, echoes;
  double seconds = 5;
  int64_t mib = 64;
  CLI::App* serve = app.add_subcommand("echo", "serve a bare echo; prints its port");
  serve->add_option("--socket", socket, "a Unix socket to listen on as well");
  CLI::App* small =
      app.add_subcommand("small", "small evaluations against echoes of the same bytes");
  CLI::App* stream = app.add_subcommand("stream", "one large tensor against a bare chunked stream");
  for (CLI::App* load : {small, stream}) {
    load->add_option("--target", target, "attnd, host:port")->required();
    load->add_option("--echo", echo, "echo, host:port")->required();
  }
  CLI::App* hop = app.add_subcommand("hop", "small evaluations one at a time, at several servers");
  hop->add_option("--server", servers, "attnd, name=target")->required();
  hop->add_option("--echo", echoes, "echo, name=target")->required();
  for (CLI::App* load : {small, hop}) {
    load->add_option("--seconds", seconds, "length of each load");
  }
  stream->add_option("--mib", mib, "size of the tensor");
  CLI11_PARSE(app, argc, argv);

  if (serve->parsed()) {
    EchoServer server = StartEchoServer(socket);
    std::cout << server.port << std::endl;
    server.server->Wait();
    return 0;
  }
  const json report = small->parsed()    ? Small(target, echo, seconds)
                      : stream->parsed() ? Stream(target, echo, mib)
                                         : Hop(Pairs(servers), Pairs(echoes), seconds);
  std::cout << report.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace attnd::bench

int main(int argc, char** argv) {
  try {
    return attnd::bench::Main(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "service_bench: " << e.what() << "\n";
    return 1;
  }
}
