#include "server/security.h"

#include <set>

#include <gtest/gtest.h>

namespace impetus {
namespace {

HttpRequest request(Headers headers) {
  return {"GET", "/", std::move(headers), {}};
}

TEST(Security, KnowsLoopbackNames) {
  for (const char* host : {"localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"}) {
    EXPECT_TRUE(is_loopback_host(host)) << host;
  }
  for (const char* host : {"", "127.0.0.1.evil.example", "127.0.0", "127.0.0.1.1", "127.0.0.256",
                           "128.0.0.1", "localhost.evil.example", "0.0.0.0", "127..0.1"}) {
    EXPECT_FALSE(is_loopback_host(host)) << host;
  }
}

TEST(Security, SplitsAuthorities) {
  EXPECT_EQ(host_of("LocalHost:8080"), "localhost");
  EXPECT_EQ(host_of("[::1]:80"), "::1");
  EXPECT_EQ(host_of("example.org"), "example.org");
  for (const char* bad : {"", ":80", "[::1", "[::1]x", "a:b", "::1", "a:123456789"}) {
    EXPECT_FALSE(host_of(bad)) << bad;
  }
}

TEST(Gate, RefusesForeignHostsOnLoopback) {
  const Gate gate(ServerOptions{.allowed_hosts = {"box.example"}});
  EXPECT_TRUE(gate.check_sender(request({{"host", "127.0.0.1:8080"}})).ok());
  EXPECT_TRUE(gate.check_sender(request({{"host", "box.example:8080"}})).ok());
  EXPECT_FALSE(gate.check_sender(request({{"host", "rebound.example"}})).ok());
  EXPECT_FALSE(gate.check_sender(request({})).ok());
  EXPECT_FALSE(gate.check_sender(request({{"host", "127.0.0.1:8080"}, {"host", "x"}})).ok());
  const Gate open(ServerOptions{.host = "0.0.0.0", .api_key = "k"});
  EXPECT_TRUE(open.check_sender(request({{"host", "any.example"}})).ok());
}

TEST(Gate, RefusesForeignOrigins) {
  const Gate gate(ServerOptions{.cors_origins = {"https://app.example"}});
  const auto from = [&](const char* origin) {
    return gate.check_sender(request({{"host", "localhost"}, {"origin", origin}})).ok();
  };
  EXPECT_TRUE(from("http://localhost:3000"));
  EXPECT_TRUE(from("https://app.example"));
  EXPECT_FALSE(from("https://app.example.evil.example"));
  EXPECT_FALSE(from("https://evil.example"));
  EXPECT_FALSE(from("null"));
  EXPECT_EQ(gate.cors(request({{"origin", "https://evil.example"}})).size(), 0u);
  EXPECT_EQ(gate.cors(request({{"origin", "http://localhost:3000"}}))[0].second,
            "http://localhost:3000");
}

TEST(Gate, WantsTheKeyEitherWay) {
  const Gate gate(ServerOptions{.api_key = "secret"});
  EXPECT_TRUE(gate.check_key(request({{"authorization", "Bearer secret"}})).ok());
  EXPECT_TRUE(gate.check_key(request({{"authorization", "bearer secret"}})).ok());
  EXPECT_TRUE(gate.check_key(request({{"x-api-key", "secret"}})).ok());
  for (const auto& headers : std::vector<Headers>{{},
                                                  {{"authorization", "secret"}},
                                                  {{"authorization", "Bearer "}},
                                                  {{"authorization", "Bearer secretsecret"}},
                                                  {{"x-api-key", "secre"}},
                                                  {{"x-api-key", "Secret"}}}) {
    const auto checked = gate.check_key(request(headers));
    ASSERT_FALSE(checked.ok());
    EXPECT_EQ(checked.error().code, ErrorCode::unauthorized);
  }
  EXPECT_TRUE(Gate(ServerOptions{}).check_key(request({})).ok());
}

TEST(Security, MakesFreshKeys) {
  std::set<std::string> keys;
  for (int i = 0; i < 100; ++i) keys.insert(generate_api_key());
  EXPECT_EQ(keys.size(), 100u);
  EXPECT_EQ(keys.begin()->size(), 68u);
}

TEST(Http, DecodesPaths) {
  EXPECT_EQ(percent_decode("/v1/models/org%2Fname"), "/v1/models/org/name");
  EXPECT_FALSE(percent_decode("/%"));
  EXPECT_FALSE(percent_decode("/%2"));
  EXPECT_FALSE(percent_decode("/%zz"));
}

TEST(Http, ParsesQueries) {
  EXPECT_EQ(*parse_query(""), Query{});
  EXPECT_EQ(*parse_query("model=a%2Bb+c%26d&&limit=3&flag"),
            (Query{{"model", "a+b c&d"}, {"limit", "3"}, {"flag", ""}}));
  EXPECT_EQ(*parse_query("a=b=c&"), (Query{{"a", "b=c"}}));
  for (const char* bad : {"a=%", "a=%4", "%zz=1", "a=%ff", "a=1&b=%c3", "\xc3=1"}) {
    const auto query = parse_query(bad);
    ASSERT_FALSE(query.ok()) << bad;
    EXPECT_EQ(query.error().code, ErrorCode::invalid_argument);
  }
  EXPECT_EQ(parse_query("limit=1&limit=2").error().param, "limit");
}

TEST(Outbox, WakesOncePerTake) {
  Outbox outbox;
  int woken = 0;
  outbox.on_ready([&] { ++woken; });
  outbox.begin({.body = "a"});
  outbox.write("b");
  EXPECT_EQ(woken, 1);
  auto taken = outbox.take();
  ASSERT_TRUE(taken.head);
  EXPECT_TRUE(taken.streaming);
  EXPECT_EQ(taken.data, "b");
  EXPECT_FALSE(taken.ended);
  outbox.end();
  EXPECT_EQ(woken, 2);
  EXPECT_TRUE(outbox.take().ended);
}

TEST(Outbox, ClosedKeepsNobodyAlive) {
  auto outbox = std::make_shared<Outbox>();
  const std::weak_ptr<Outbox> watch = outbox;
  outbox->respond_with([outbox] { return HttpResponse{}; });  // as an answer that owns its box does
  outbox->close();
  outbox->respond_with([outbox] { return HttpResponse{}; });
  outbox.reset();
  EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace impetus
