#include "service/metrics/http_server.h"

#include <CivetServer.h>

#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace attnd {
namespace {

class CivetHttpServer final : public HttpServer, private CivetHandler {
 public:
  explicit CivetHttpServer(HttpPages pages) : pages_(std::move(pages)) {}
  // The server's threads read the pages: it goes first.
  ~CivetHttpServer() override { server_.reset(); }

  // Throws CivetException.
  void Listen(const std::vector<std::string>& options) {
    server_ = std::make_unique<CivetServer>(options);
    server_->addHandler("**", this);
  }

  int port() const override {
    const std::vector<int> ports = server_->getListeningPorts();
    return ports.empty() ? 0 : ports.front();
  }

  bool handleGet(CivetServer*, mg_connection* connection) override {
    return Answer(connection, /*with_body=*/true);
  }
  bool handleHead(CivetServer*, mg_connection* connection) override {
    return Answer(connection, /*with_body=*/false);
  }
  bool handlePost(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handlePut(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handleDelete(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handleOptions(CivetServer*, mg_connection* connection) override {
    return Refuse(connection);
  }
  bool handlePatch(CivetServer*, mg_connection* connection) override { return Refuse(connection); }

 private:
  bool Answer(mg_connection* connection, bool with_body) {
    const auto page = pages_.find(mg_get_request_info(connection)->local_uri);
    if (page == pages_.end()) {
      Send(connection, {.status = 404, .body = "no such page\n"}, with_body);
      return true;
    }
    HttpPage made;
    try {
      made = page->second();
    } catch (const std::exception& e) {
      made = {.status = 500, .body = absl::StrCat(e.what(), "\n")};
    }
    Send(connection, made, with_body);
    return true;
  }

  bool Refuse(mg_connection* connection) {
    Send(connection, {.status = 405, .body = "only GET\n"}, true);
    return true;
  }

  static void Send(mg_connection* connection, const HttpPage& page, bool with_body) {
    const std::string head = absl::StrFormat(
        "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        page.status, mg_get_response_code_text(connection, page.status), page.content_type,
        page.body.size());
    mg_write(connection, head.data(), head.size());
    if (with_body) mg_write(connection, page.body.data(), page.body.size());
  }

  const HttpPages pages_;
  std::unique_ptr<CivetServer> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address, int port,
                                                              HttpPages pages) {
  auto server = std::make_unique<CivetHttpServer>(std::move(pages));
  try {
    server->Listen({"listening_ports", absl::StrCat(address, ":", port), "num_threads", "2",
                    "request_timeout_ms", "10000"});
  } catch (const std::exception& e) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ":", port, " (HTTP): is the port taken?"));
  }
  return server;
}

}  // namespace attnd
