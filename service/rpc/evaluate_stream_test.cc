#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <map>

#include "service/rpc/testing/rpc_fixture.h"

namespace attnd {
namespace {

using testing::HasSubstr;

constexpr int64_t kMaxTensor = 1 << 20;

class EvaluateStreamTest : public RpcFixture {
 protected:
  EvaluateStreamTest()
      : RpcFixture({.max_tensor_bytes = kMaxTensor,
                    .max_call_bytes = 2 * kMaxTensor,
                    .max_buffer_bytes = 3 * kMaxTensor,
                    .chunk_bytes = 1000}) {}

  using Stream = grpc::ClientReaderWriter<v1::EvaluateChunk, v1::EvaluateChunk>;

  static v1::EvaluateChunk Header(const TestCall& call) {
    v1::EvaluateChunk chunk;
    *chunk.mutable_request() = call.ToNative();
    for (auto& [name, tensor] : *chunk.mutable_request()->mutable_inputs()) tensor.clear_data();
    return chunk;
  }

  static v1::EvaluateChunk Data(const std::string& tensor, uint64_t offset, std::string bytes) {
    v1::EvaluateChunk chunk;
    chunk.mutable_data()->set_tensor(tensor);
    chunk.mutable_data()->set_offset(offset);
    chunk.mutable_data()->set_bytes(std::move(bytes));
    return chunk;
  }

  static void Upload(Stream& stream, const TestCall& call, size_t chunk_bytes) {
    ASSERT_TRUE(stream.Write(Header(call)));
    for (const auto& [name, tensor] : call.inputs) {
      for (size_t at = 0; at < tensor.data.size(); at += chunk_bytes) {
        ASSERT_TRUE(stream.Write(Data(name, at, tensor.data.substr(at, chunk_bytes))));
      }
    }
    ASSERT_TRUE(stream.WritesDone());
  }

  // What comes of writing `chunks` and ending.
  grpc::Status Send(const std::vector<v1::EvaluateChunk>& chunks) {
    grpc::ClientContext context;
    auto stream = operators_->EvaluateStream(&context);
    for (const v1::EvaluateChunk& chunk : chunks) {
      if (!stream->Write(chunk)) break;
    }
    stream->WritesDone();
    v1::EvaluateChunk answer;
    while (stream->Read(&answer)) {
    }
    return stream->Finish();
  }
};

TEST_F(EvaluateStreamTest, EqualsEvaluate) {
  for (int64_t tokens : {0, 1, 3, 1000}) {
    const TestCall call = RecurrenceCall(tokens);
    v1::EvaluateResponse whole;
    ASSERT_TRUE(Evaluate(call.ToNative(), &whole).ok());

    grpc::ClientContext context;
    auto stream = operators_->EvaluateStream(&context);
    Upload(*stream, call, 777);
    v1::EvaluateChunk chunk;
    ASSERT_TRUE(stream->Read(&chunk));
    ASSERT_TRUE(chunk.has_response());
    v1::EvaluateResponse response = chunk.response();
    std::map<std::string, std::string> data;
    while (stream->Read(&chunk)) {
      ASSERT_TRUE(chunk.has_data());
      std::string& bytes = data[chunk.data().tensor()];
      EXPECT_EQ(chunk.data().offset(), bytes.size());
      EXPECT_LE(chunk.data().bytes().size(), 1000u);
      bytes += chunk.data().bytes();
    }
    const grpc::Status status = stream->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(response.outputs_size(), whole.outputs_size());
    for (const auto& [name, tensor] : whole.outputs()) {
      EXPECT_EQ(data[name], tensor.data()) << name;
      EXPECT_EQ(response.outputs().at(name).dtype(), tensor.dtype());
      EXPECT_EQ(response.outputs().at(name).shape_size(), tensor.shape_size());
    }
  }
}

TEST_F(EvaluateStreamTest, ChunksOfSeveralTensorsMayAlternate) {
  const TestCall call = RecurrenceCall(1);
  const std::string &q = call.inputs.at("q").data, &v = call.inputs.at("v").data;
  EXPECT_TRUE(Send({Header(call), Data("q", 0, q.substr(0, 7)), Data("v", 0, v),
                    Data("q", 7, q.substr(7)), Data("k", 0, call.inputs.at("k").data)})
                  .ok());
}

TEST_F(EvaluateStreamTest, ChunksInUnusualFormAreRead) {
  const TestCall call = RecurrenceCall(1);
  // A chunk that a serialiser would not write: data twice, to be merged. The first has no bytes.
  grpc::ClientContext context;
  auto stream = operators_->EvaluateStream(&context);
  ASSERT_TRUE(stream->Write(Header(call)));
  for (const auto& [name, tensor] : call.inputs) {
    v1::EvaluateChunk chunk = Data(name, 0, tensor.data);
    chunk.mutable_data()
        ->GetReflection()
        ->MutableUnknownFields(chunk.mutable_data())
        ->AddVarint(99, 1);
    ASSERT_TRUE(stream->Write(chunk));
  }
  stream->WritesDone();
  v1::EvaluateChunk answer;
  EXPECT_TRUE(stream->Read(&answer));
  while (stream->Read(&answer)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
}

struct BadStream {
  const char* name;
  std::function<std::vector<v1::EvaluateChunk>(const TestCall& call, v1::EvaluateChunk header,
                                               std::vector<v1::EvaluateChunk> data)>
      chunks;
  grpc::StatusCode code;
  std::vector<std::string> mentions;
};

TEST_F(EvaluateStreamTest, MalformedStreamsAreRefused) {
  using Chunks = std::vector<v1::EvaluateChunk>;
  const auto invalid = grpc::StatusCode::INVALID_ARGUMENT;
  const auto exhausted = grpc::StatusCode::RESOURCE_EXHAUSTED;
  const auto resized = [](v1::EvaluateChunk header, std::vector<int64_t> shape) {
    auto& q = (*header.mutable_request()->mutable_inputs())["q"];
    q.clear_shape();
    q.mutable_shape()->Add(shape.begin(), shape.end());
    return header;
  };
  // Data chunks come in the order k, q, v.
  const std::vector<BadStream> cases = {
      {"nothing at all", [](auto&, auto, auto) { return Chunks{}; }, invalid, {"header"}},
      {"data first", [](auto&, auto, auto d) { return d; }, invalid, {"request"}},
      {"empty chunk first",
       [](auto&, auto, auto) { return Chunks{v1::EvaluateChunk()}; },
       invalid,
       {"request"}},
      {"response first",
       [](auto&, auto, auto) {
         v1::EvaluateChunk chunk;
         chunk.mutable_response();
         return Chunks{chunk};
       },
       invalid,
       {"request"}},
      {"second header",
       [](auto&, auto h, auto) {
         return Chunks{h, h};
       },
       invalid,
       {"second header", "data"}},
      {"empty chunk later",
       [](auto&, auto h, auto) {
         return Chunks{h, v1::EvaluateChunk()};
       },
       invalid,
       {"expected `data`"}},
      {"unknown tensor",
       [](auto&, auto h, auto) {
         return Chunks{h, Data("zz", 0, "abc")};
       },
       invalid,
       {"zz", "header"}},
      {"nameless tensor",
       [](auto&, auto h, auto) {
         return Chunks{h, Data("", 0, "abc")};
       },
       invalid,
       {"header"}},
      {"gap",
       [](auto&, auto h, auto) {
         return Chunks{h, Data("q", 4, "abcd")};
       },
       invalid,
       {"q", "offset 4", "offset 0"}},
      {"repeated chunk",
       [](auto&, auto h, auto) {
         return Chunks{h, Data("q", 0, "abcd"), Data("q", 0, "abcd")};
       },
       invalid,
       {"q", "offset 0", "offset 4"}},
      {"huge offset",
       [](auto&, auto h, auto) {
         return Chunks{h, Data("q", ~uint64_t{0}, "abcd")};
       },
       invalid,
       {"q", "18446744073709551615"}},
      {"one byte too many",
       [](auto& c, auto h, auto) {
         return Chunks{h, Data("q", 0, c.inputs.at("q").data + "x")};
       },
       invalid,
       {"q", "97 bytes", "at most 96"}},
      {"one more chunk",
       [](auto&, auto h, auto d) {
         return Chunks{h, d[0], d[1], d[2], Data("q", 96, "x")};
       },
       invalid,
       {"q", "at most 0"}},
      {"missing tensor",
       [](auto&, auto h, auto d) {
         return Chunks{h, d[0], d[1]};
       },
       invalid,
       {"v", "0 bytes", "96"}},
      {"missing bytes",
       [](auto&, auto h, auto d) {
         return Chunks{h, d[0], d[1], Data("v", 0, "abcd")};
       },
       invalid,
       {"v", "4 bytes", "96"}},
      {"no data", [](auto&, auto h, auto) { return Chunks{h}; }, invalid, {"0 bytes"}},
      {"header with data",
       [](auto& c, auto h, auto) {
         *h.mutable_request() = c.ToNative();
         return Chunks{h};
       },
       invalid,
       {"data", "chunks"}},
      {"negative size",
       [&](auto&, auto h, auto) {
         return Chunks{resized(h, {1, -3, 2, 4})};
       },
       invalid,
       {"q", "[1,-3,2,4]", "expected"}},
      {"overflowing product",
       [&](auto&, auto h, auto) {
         return Chunks{resized(h, {2147483647, 2147483647, 2147483647, 2147483647})};
       },
       invalid,
       {"q", "elements"}},
      {"huge size",
       [&](auto&, auto h, auto) {
         return Chunks{resized(h, {1, int64_t{1} << 62})};
       },
       invalid,
       {"q", "expected"}},
      {"rank 9",
       [&](auto&, auto h, auto) {
         return Chunks{resized(h, {1, 1, 1, 1, 1, 1, 1, 1, 1})};
       },
       invalid,
       {"q", "rank 9", "at most 8"}},
      {"larger than a tensor may be",
       [&](auto&, auto h, auto) {
         return Chunks{resized(h, {1, kMaxTensor / 32 + 1, 2, 4})};
       },
       exhausted,
       {"q", "1048608 bytes", "1048576"}},
      {"larger than a call may be",
       [&](auto&, auto h, auto) {
         h = resized(h, {1, kMaxTensor / 32, 2, 4});
         auto& inputs = *h.mutable_request()->mutable_inputs();
         inputs["v"] = inputs["k"] = inputs["q"];
         return Chunks{h};
       },
       exhausted,
       {"inputs", "3145728 bytes", "2097152"}},
      {"unknown operator",
       [](auto&, auto h, auto) {
         h.mutable_request()->set_op("toy_nothing");
         return Chunks{h};
       },
       grpc::StatusCode::NOT_FOUND,
       {"toy_nothing"}},
      {"no dtype",
       [](auto&, auto h, auto) {
         (*h.mutable_request()->mutable_inputs())["q"].clear_dtype();
         return Chunks{h};
       },
       invalid,
       {"q", "dtype 0", "FLOAT32"}},
      {"wrong shape, found when all is there",
       [&](auto& c, auto h, auto d) {
         return Chunks{resized(h, {1, 3, 4, 2}), d[0], d[1], d[2]};
       },
       invalid,
       {"toy_recurrence", "given", "expected"}},
      {"unknown output",
       [](auto&, auto h, auto d) {
         h.mutable_request()->add_outputs("nope");
         return Chunks{h, d[0], d[1], d[2]};
       },
       invalid,
       {"outputs", "nope", "final_state"}},
  };
  const TestCall call = RecurrenceCall();
  std::vector<v1::EvaluateChunk> data;
  for (const auto& [name, tensor] : call.inputs) data.push_back(Data(name, 0, tensor.data));
  for (const BadStream& bad : cases) {
    SCOPED_TRACE(bad.name);
    const grpc::Status status = Send(bad.chunks(call, Header(call), data));
    EXPECT_EQ(status.error_code(), bad.code) << status.error_message();
    for (const std::string& text : bad.mentions) {
      EXPECT_THAT(status.error_message(), HasSubstr(text));
    }
  }
  data.insert(data.begin(), Header(call));
  EXPECT_TRUE(Send(data).ok());
}

TEST_F(EvaluateStreamTest, BoolsAreChecked) {
  TestCall call = SelectCall();
  call.inputs["mask"].data[3] = 2;
  std::vector<v1::EvaluateChunk> chunks = {Header(call)};
  for (const auto& [name, tensor] : call.inputs) chunks.push_back(Data(name, 0, tensor.data));
  const grpc::Status status = Send(chunks);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("mask: given the byte 2 at 3"));
}

TEST_F(EvaluateStreamTest, StreamsTogetherHoldNoMoreThanTheBudget) {
  TestCall call = RecurrenceCall(1);
  v1::EvaluateChunk header = Header(call);
  auto& q = *(*header.mutable_request()->mutable_inputs())["q"].mutable_shape();
  q.Set(1, kMaxTensor / 32);
  (*header.mutable_request()->mutable_inputs())["v"] = header.request().inputs().at("q");
  // Each stream announces a little over 2 MiB... the budget is 3 MiB.
  grpc::ClientContext first_context;
  header.mutable_request()->mutable_inputs()->erase("k");
  {
    auto first = operators_->EvaluateStream(&first_context);
    ASSERT_TRUE(first->Write(header));
    ASSERT_TRUE(first->Write(Data("q", 0, "abcd")));
    grpc::Status second;
    for (int i = 0; i < 1000 && second.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED; ++i) {
      second = Send({header});  // INVALID_ARGUMENT as long as the first has not arrived.
    }
    EXPECT_EQ(second.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    std::optional<Engine::Dropped> dropped = engine_.NextDropped();
    while (dropped == Engine::Dropped::kInvalid) dropped = engine_.NextDropped();
    EXPECT_EQ(dropped, Engine::Dropped::kBufferFull);
    first_context.TryCancel();
    first->Finish();
  }
  grpc::Status after;
  for (int i = 0; i < 1000; ++i) {
    after = Send({header});
    if (after.error_code() == grpc::StatusCode::INVALID_ARGUMENT) break;
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(after.error_code(), grpc::StatusCode::INVALID_ARGUMENT);  // Room again; bytes missing.
}

TEST_F(EvaluateStreamTest, CancelledWhileEvaluated) {
  engine_.Hold(true);
  grpc::ClientContext context;
  auto stream = operators_->EvaluateStream(&context);
  Upload(*stream, RecurrenceCall(), 1000);
  ASSERT_TRUE(engine_.AwaitHeld(1));
  const std::shared_ptr<CancelToken> cancel = engine_.held_call(0).cancel;
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 1000 && !cancel->cancelled(); ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(cancel->cancelled());
  engine_.Release();
}

TEST_F(EvaluateStreamTest, CallsThatEndWhileTheyComeAreCounted) {
  const TestCall call = RecurrenceCall();
  EXPECT_FALSE(Send({Header(call)}).ok());
  EXPECT_EQ(engine_.NextDropped(), Engine::Dropped::kInvalid);

  v1::EvaluateChunk large = Header(call);
  (*large.mutable_request()->mutable_inputs())["q"].mutable_shape()->Set(1, kMaxTensor);
  EXPECT_FALSE(Send({large}).ok());
  EXPECT_EQ(engine_.NextDropped(), Engine::Dropped::kTooLarge);

  {
    grpc::ClientContext context;
    auto stream = operators_->EvaluateStream(&context);
    ASSERT_TRUE(stream->Write(Header(call)));
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_EQ(engine_.NextDropped(), Engine::Dropped::kCancelled);
  }
  // A client ends its call before the server's clock says so; on a busy machine long before.
  std::optional<Engine::Dropped> dropped;
  for (int i = 0; i < 20 && dropped != Engine::Dropped::kLate; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
    auto stream = operators_->EvaluateStream(&context);
    // One that did not even reach the server is none that it could count.
    const bool sent = stream->Write(Header(call));
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    if (sent) dropped = engine_.NextDropped();
  }
  EXPECT_EQ(dropped, Engine::Dropped::kLate);
}

}  // namespace
}  // namespace attnd
