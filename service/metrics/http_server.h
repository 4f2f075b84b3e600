// A small HTTP server for pages that are made when asked for: metrics, probes, status.
#ifndef ATTND_SERVICE_METRICS_HTTP_SERVER_H_
#define ATTND_SERVICE_METRICS_HTTP_SERVER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace attnd {

struct HttpPage {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// By path: "/metrics". "/" answers only itself; other paths are 404, other methods than GET and
// HEAD 405.
using HttpPages = std::map<std::string, std::function<HttpPage()>>;

class HttpServer {
 public:
  // Port 0 takes a free one. UNAVAILABLE if the port cannot be had.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address, int port,
                                                           HttpPages pages);
  virtual ~HttpServer() = default;
  virtual int port() const = 0;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_HTTP_SERVER_H_
