#include "server/http.h"

#include <algorithm>
#include <charconv>

#include "api/error.h"
#include "base/utf8.h"

namespace impetus {

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

HttpResponse error_response(const Error& error) {
  HttpResponse response;
  response.status = api::wire_error(error).status;
  response.body = api::error_body(error);
  if (response.status == 429 || response.status == 503) response.headers = {{"Retry-After", "1"}};
  return response;
}

void Outbox::respond(HttpResponse response) {
  std::unique_lock lock(mutex_);
  pending_.head = std::move(response);
  pending_.ended = true;
  changed(std::move(lock));
}

void Outbox::respond_with(std::function<HttpResponse()> make) {
  std::unique_lock lock(mutex_);
  pending_.make = std::move(make);
  pending_.ended = true;
  changed(std::move(lock));
}

void Outbox::begin(HttpResponse head) {
  std::unique_lock lock(mutex_);
  pending_.head = std::move(head);
  pending_.streaming = true;
  changed(std::move(lock));
}

void Outbox::write(std::string data) {
  std::unique_lock lock(mutex_);
  pending_.data += data;
  changed(std::move(lock));
}

void Outbox::end() {
  std::unique_lock lock(mutex_);
  pending_.ended = true;
  changed(std::move(lock));
}

void Outbox::close() {
  Taken dropped;  // may own answers that own this box: let go of after the lock
  std::function<void()> ready, overdue;
  const std::lock_guard lock(mutex_);
  closed_ = true;
  dropped = std::exchange(pending_, {});
  ready = std::exchange(ready_, nullptr);
  overdue = std::exchange(overdue_, nullptr);
}

void Outbox::changed(std::unique_lock<std::mutex> lock) {
  if (closed_) {
    Taken dropped = std::exchange(pending_, {});
    lock.unlock();  // before what was dropped goes
    return;
  }
  if (std::exchange(notified_, true) || !ready_) return;
  const auto ready = ready_;
  lock.unlock();
  ready();
}

Outbox::Taken Outbox::take() {
  const std::lock_guard lock(mutex_);
  notified_ = false;
  return std::exchange(pending_, {});
}

void Outbox::on_overdue(std::function<void()> overdue) {
  const std::lock_guard lock(mutex_);
  overdue_ = std::move(overdue);
}

void Outbox::overdue() {
  std::function<void()> overdue;
  {
    const std::lock_guard lock(mutex_);
    overdue = std::exchange(overdue_, nullptr);
  }
  if (overdue) overdue();
}

void Outbox::on_ready(std::function<void()> ready) {
  const std::lock_guard lock(mutex_);
  ready_ = std::move(ready);
}

std::optional<std::string> percent_decode(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    unsigned value = 0;
    const char* digits = text.data() + i + 1;
    const auto [end, code] = std::from_chars(digits, digits + 2, value, 16);
    if (code != std::errc{} || end != digits + 2) return std::nullopt;
    decoded += static_cast<char>(value);
    i += 2;
  }
  return decoded;
}

Result<Query> parse_query(std::string_view text) {
  Query query;
  const auto decoded = [](std::string_view part) -> Result<std::string> {
    std::string plain(part);
    std::ranges::replace(plain, '+', ' ');
    auto decoded = percent_decode(plain);
    if (!decoded || repair_utf8(*decoded) != *decoded) {
      return error(ErrorCode::invalid_argument, "the query is not percent-encoded UTF-8");
    }
    return std::move(*decoded);
  };
  while (!text.empty()) {
    const std::string_view pair = text.substr(0, text.find('&'));
    text.remove_prefix(std::min(text.size(), pair.size() + 1));
    if (pair.empty()) continue;
    const size_t equals = std::min(pair.find('='), pair.size());
    IMPETUS_TRY(std::string name, decoded(pair.substr(0, equals)));
    IMPETUS_TRY(std::string value, decoded(pair.substr(std::min(equals + 1, pair.size()))));
    if (std::ranges::find(query, name, &Query::value_type::first) != query.end()) {
      Error failure = error(ErrorCode::invalid_argument, "the query has '{}' twice", name);
      failure.param = std::move(name);
      return failure;
    }
    query.emplace_back(std::move(name), std::move(value));
  }
  return query;
}

}  // namespace impetus
