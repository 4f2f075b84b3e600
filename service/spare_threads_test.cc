#include "service/spare_threads.h"

#include <gtest/gtest.h>

#include <chrono>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "prometheus/registry.h"
#include "service/grpc_server.h"

namespace attnd {
namespace {

class SpareThreadsTest : public ::testing::Test {
 protected:
  SpareThreadsTest() : rpcs_(registry_) {}

  // A server whose health service is called; threads are held for `most` at a time, while calls
  // take less than `long_call`.
  void Start(absl::Duration most, absl::Duration long_call = absl::Hours(1)) {
    spare_ =
        std::make_unique<SpareThreads>([](absl::string_view) { return true; }, most, long_call);
    auto server = GrpcServer::Start(
        {.address = "127.0.0.1", .port = 0, .spare_threads = spare_.get()}, rpcs_, {}, {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    // All of them, by then.
    EXPECT_TRUE(Await([] { return CallbackThreads() >= 2; }));
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                   grpc::InsecureChannelCredentials());
  }

  // A call to the server that somebody waits for, with so many bytes of a field that nobody knows.
  void Call(size_t bytes = 0) {
    std::string text;
    if (bytes > 0) {
      text = "\x7a";  // Field 15, of which the length follows.
      for (size_t left = bytes; left > 0; left >>= 7) {
        text += static_cast<char>((left & 0x7f) | (left >= 0x80 ? 0x80 : 0));
      }
      text.append(bytes, 'x');
    }
    grpc::Slice slice(text);
    grpc::ByteBuffer request(&slice, 1), response;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    grpc::CompletionQueue queue;
    grpc::Status status;
    auto reader = grpc::GenericStub(channel_).PrepareUnaryCall(
        &context, "/grpc.health.v1.Health/Check", request, &queue);
    reader->StartCall();
    reader->Finish(&response, &status, nullptr);
    void* tag;
    bool ok;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  // Calls one by one until so many threads are held.
  bool CallUntilHeld(int held) {
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (spare_->held() != held && absl::Now() < end) Call();
    return spare_->held() == held;
  }

  static bool Await(absl::FunctionRef<bool()> condition) {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (!condition() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    return condition();
  }

  prometheus::Registry registry_;
  RpcMetrics rpcs_;
  std::unique_ptr<SpareThreads> spare_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(SpareThreadsTest, AllButOneAreHeldWhileCallsComeOneByOne) {
  Start(absl::Hours(1));
  const int threads = CallbackThreads();
  ASSERT_GE(threads, 2);
  EXPECT_EQ(spare_->held(), 0);
  ASSERT_TRUE(CallUntilHeld(threads - 1));
  for (int i = 0; i < 100; ++i) Call();
  EXPECT_EQ(spare_->held(), threads - 1);
}

TEST_F(SpareThreadsTest, TwoCallsAtATimeLetThemGo) {
  Start(absl::Hours(1));
  const int threads = CallbackThreads();
  ASSERT_TRUE(CallUntilHeld(threads - 1));
  for (int i = 0; i < 2; ++i) spare_->Begin();
  for (int i = 0; i < 2; ++i) Call();
  EXPECT_TRUE(Await([this] { return spare_->held() == 0; }));
  for (int i = 0; i < 2 * SpareThreads::kAlone; ++i) Call();
  EXPECT_EQ(spare_->held(), 0);
  for (int i = 0; i < 2; ++i) spare_->End();
  EXPECT_TRUE(CallUntilHeld(threads - 1));
}

TEST_F(SpareThreadsTest, ALargeMessageLetsThemGo) {
  Start(absl::Hours(1));
  const int threads = CallbackThreads();
  ASSERT_TRUE(CallUntilHeld(threads - 1));
  Call(SpareThreads::kLargeBytes / 2);
  EXPECT_EQ(spare_->held(), threads - 1);
  Call(SpareThreads::kLargeBytes);
  EXPECT_TRUE(Await([this] { return spare_->held() == 0; }));
}

TEST_F(SpareThreadsTest, NobodyWaitsBehindACallThatTheLastThreadIsBusyWith) {
  Start(absl::Hours(1), absl::Milliseconds(200));
  ASSERT_TRUE(CallUntilHeld(CallbackThreads() - 1));
  // What a call does where it arrives, on the only thread that is left.
  absl::Notification begun, over, ended;
  grpc::ClientContext context;
  grpc::Slice nothing;
  grpc::ByteBuffer request(&nothing, 1), response;
  grpc::GenericStub(channel_).UnaryCall(&context, "/grpc.health.v1.Health/Check",
                                        grpc::StubOptions(), &request, &response,
                                        [&](const grpc::Status&) {
                                          spare_->Begin();
                                          begun.Notify();
                                          over.WaitForNotification();
                                          spare_->End();
                                          ended.Notify();
                                        });
  begun.WaitForNotification();
  Call();  // Fails at its deadline where nobody takes it.
  EXPECT_EQ(spare_->held(), 0);
  over.Notify();
  ended.WaitForNotification();
  EXPECT_TRUE(CallUntilHeld(CallbackThreads() - 1));
}

TEST_F(SpareThreadsTest, WithoutCallsTheyGoByThemselves) {
  Start(absl::Milliseconds(50));
  const int threads = CallbackThreads();
  ASSERT_TRUE(CallUntilHeld(threads - 1));
  EXPECT_TRUE(Await([this] { return spare_->held() == 0; }));
  EXPECT_TRUE(CallUntilHeld(threads - 1));
}

TEST_F(SpareThreadsTest, AServerEndsWhileTheyAreHeld) {
  Start(absl::Hours(1));
  ASSERT_TRUE(CallUntilHeld(CallbackThreads() - 1));
  server_.reset();
  EXPECT_EQ(spare_->held(), 0);
  for (int i = 0; i < 2 * SpareThreads::kAlone; ++i) {
    spare_->Begin();
    spare_->End();
  }
  EXPECT_EQ(spare_->held(), 0);
}

}  // namespace
}  // namespace attnd
