// Sessions against a service of the test's own, which is away at the wrong moments.
#include "attnd/sessions.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "attnd/v1/sessions.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd::client {
namespace {

using ::testing::ElementsAre;

const grpc::Status kAway(grpc::StatusCode::UNAVAILABLE, "away");

// Counts; breaks every stream after two tokens, and every first call of a mutation.
class Flaky final : public v1::Sessions::Service {
 public:
  grpc::Status Append(grpc::ServerContext*, const v1::AppendRequest* request,
                      v1::AppendResponse* response) override {
    absl::MutexLock lock(&mu_);
    keys_.insert(request->idempotency_key());
    if (++appends_ == 1) return kAway;
    response->set_position(static_cast<uint64_t>(request->tokens_size()));
    return grpc::Status::OK;
  }

  grpc::Status Decode(grpc::ServerContext*, const v1::DecodeRequest* request,
                      grpc::ServerWriter<v1::DecodeEvent>* writer) override {
    absl::MutexLock lock(&mu_);
    keys_.insert(request->idempotency_key());
    const uint64_t from = request->has_from_position() ? request->from_position() : 10;
    froms_.push_back(from);
    for (uint64_t at = from; at < 15 && at < from + 2; ++at) {
      v1::DecodeEvent event;
      event.set_position(at);
      event.add_tokens()->set_token(static_cast<uint32_t>(at));
      writer->Write(event);
    }
    if (from + 2 <= 15) return kAway;
    v1::DecodeEvent end;
    end.set_position(15);
    end.set_finish(v1::LENGTH);
    writer->Write(end);
    return grpc::Status::OK;
  }

  grpc::Status List(grpc::ServerContext*, const v1::ListSessionsRequest* request,
                    v1::ListSessionsResponse* response) override {
    const std::string next = absl::StrCat(request->after(), "x");
    response->add_sessions()->set_session(next);
    if (next.size() < 3) response->set_next(next);
    return grpc::Status::OK;
  }

  grpc::Status Export(grpc::ServerContext*, const v1::ExportRequest* request,
                      grpc::ServerWriter<v1::FileChunk>* writer) override {
    v1::FileChunk chunk;
    chunk.set_data(request->session());
    chunk.set_sha256(std::string(32, 'x'));
    writer->Write(chunk);
    return grpc::Status::OK;
  }

  int appends() const {
    absl::MutexLock lock(&mu_);
    return appends_;
  }
  std::vector<uint64_t> froms() const {
    absl::MutexLock lock(&mu_);
    return froms_;
  }
  std::set<std::string> keys() const {
    absl::MutexLock lock(&mu_);
    return keys_;
  }

 private:
  mutable absl::Mutex mu_;
  int appends_ = 0;
  std::vector<uint64_t> froms_;
  std::set<std::string> keys_;
};

class SessionsTest : public ::testing::Test {
 protected:
  SessionsTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("localhost:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    client_.emplace(Client::Connect(absl::StrCat("localhost:", port)).value());
  }

  Flaky service_;
  std::unique_ptr<grpc::Server> server_;
  std::optional<Client> client_;
};

TEST_F(SessionsTest, AMutationThatIsRepeatedKeepsItsKey) {
  v1::AppendRequest request;
  request.add_tokens(1);
  EXPECT_EQ(Sessions(*client_).Append(request)->position(), 1u);
  EXPECT_EQ(service_.appends(), 2);
  ASSERT_EQ(service_.keys().size(), 1u);
  EXPECT_NE(*service_.keys().begin(), "");
  // One that names its position needs none.
  request.set_expected_position(0);
  EXPECT_TRUE(Sessions(*client_).Append(request).ok());
  EXPECT_EQ(service_.keys().count(""), 1u);
}

TEST_F(SessionsTest, AStreamGoesOnWhereItBroke) {
  std::vector<uint32_t> tokens;
  v1::FinishReason finish = v1::NOT_FINISHED;
  const absl::Status status =
      Sessions(*client_).Decode(v1::DecodeRequest(), [&](const v1::DecodeEvent& event) {
        for (const auto& token : event.tokens()) tokens.push_back(token.token());
        finish = event.finish();
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(tokens, ElementsAre(10, 11, 12, 13, 14));
  EXPECT_EQ(finish, v1::LENGTH);
  EXPECT_THAT(service_.froms(), ElementsAre(10, 12, 14));
  EXPECT_EQ(service_.keys().size(), 1u) << "the same decode each time";
  const absl::Status left =
      Sessions(*client_).Decode(v1::DecodeRequest(), [](const v1::DecodeEvent&) { return false; });
  EXPECT_TRUE(absl::IsCancelled(left)) << left;
}

TEST_F(SessionsTest, PatienceEnds) {
  server_->Shutdown();
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsUnavailable(
      Sessions(*client_, absl::Milliseconds(300)).Append(v1::AppendRequest()).status()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST_F(SessionsTest, ListsAllPagesAndChecksFiles) {
  const auto all = Sessions(*client_).List();
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 3u);
  EXPECT_EQ(all->back().session(), "xxx");
  EXPECT_EQ(Sessions(*client_).Export("s").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace attnd::client
