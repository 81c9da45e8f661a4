// A plain HTTP/1.1 client for tests: one connection, blocking, with a deadline on every read.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>

namespace impetus::testing {

struct HttpAnswer {
  int status = 0;  // 0: the connection closed, or nothing came in time
  std::string head;
  std::string body;  // chunks joined
};

class HttpClient {
 public:
  explicit HttpClient(uint16_t port) {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    timeval limit{.tv_sec = 60, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient() { close(); }

  bool connected() const { return connected_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }

  HttpAnswer get(const std::string& path, const std::string& headers = "") {
    send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n");
    return receive();
  }
  void start_post(const std::string& path, const std::string& body,
                  const std::string& headers = "") {
    send("POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
         headers + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  }
  HttpAnswer post(const std::string& path, const std::string& body,
                  const std::string& headers = "") {
    start_post(path, body, headers);
    return receive();
  }

  // The next whole answer.
  HttpAnswer receive() {
    HttpAnswer answer;
    if (!take_until("\r\n\r\n", answer.head)) return answer;
    const size_t space = answer.head.find(' ');
    answer.status = space == std::string::npos ? 0 : std::atoi(answer.head.c_str() + space);
    if (answer.status == 204 || answer.status == 100) return answer;
    if (answer.head.find("Transfer-Encoding: chunked") != std::string::npos) {
      for (;;) {
        std::string size;
        if (!take_until("\r\n", size)) break;
        const size_t count = std::strtoul(size.c_str(), nullptr, 16);
        std::string chunk;
        if (!take(count + 2, chunk) || count == 0) break;
        answer.body.append(chunk, 0, count);
      }
      return answer;
    }
    const size_t at = answer.head.find("Content-Length: ");
    if (at != std::string::npos)
      take(std::strtoul(answer.head.c_str() + at + 16, nullptr, 10), answer.body);
    return answer;
  }

  // Bytes until `end` (included in neither); false where the connection ended first.
  bool take_until(std::string_view end, std::string& out) {
    size_t at;
    while ((at = buffer_.find(end)) == std::string::npos) {
      if (!fill()) return false;
    }
    out = buffer_.substr(0, at);
    buffer_.erase(0, at + end.size());
    return true;
  }

 private:
  bool take(size_t count, std::string& out) {
    while (buffer_.size() < count) {
      if (!fill()) return false;
    }
    out = buffer_.substr(0, count);
    buffer_.erase(0, count);
    return true;
  }
  bool fill() {
    char bytes[16384];
    const ssize_t count = ::recv(fd_, bytes, sizeof bytes, 0);
    if (count <= 0) return false;
    buffer_.append(bytes, static_cast<size_t>(count));
    return true;
  }

  int fd_ = -1;
  bool connected_ = false;
  std::string buffer_;
};

}  // namespace impetus::testing
