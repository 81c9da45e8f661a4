#include "base/sha256.h"

#include <cstdio>
#include <new>
#include <vector>

#include <openssl/evp.h>

namespace impetus {
namespace {

// libcrypto fails here only where it has no memory, which elsewhere is a bad_alloc too.
void must(int done) {
  if (done != 1) throw std::bad_alloc();
}

}  // namespace

struct Sha256::Context {
  Context() : handle(EVP_MD_CTX_new()) {
    if (handle == nullptr) throw std::bad_alloc();
    start();
  }
  ~Context() { EVP_MD_CTX_free(handle); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  void start() { must(EVP_DigestInit_ex(handle, EVP_sha256(), nullptr)); }

  EVP_MD_CTX* handle;
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {}
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

Sha256& Sha256::add(std::span<const std::byte> bytes) {
  must(EVP_DigestUpdate(context_->handle, bytes.data(), bytes.size()));
  return *this;
}

Sha256& Sha256::add(std::string_view text) {
  return add(std::as_bytes(std::span(text)));
}

Sha256Digest Sha256::digest() {
  Sha256Digest digest{};
  must(EVP_DigestFinal_ex(context_->handle, reinterpret_cast<unsigned char*>(digest.data()),
                          nullptr));
  context_->start();
  return digest;
}

std::string Sha256::hex() {
  std::string text;
  for (const std::byte byte : digest()) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  return text;
}

Sha256Digest sha256(std::string_view text) {
  return Sha256().add(text).digest();
}

std::string sha256_hex(std::string_view text) {
  return Sha256().add(text).hex();
}

Result<std::string> sha256_of_file(const std::filesystem::path& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (!file) {
    std::error_code code;
    return std::filesystem::exists(path, code)
               ? error(ErrorCode::io, "{}: cannot be read", path.string())
               : error(ErrorCode::not_found, "{}: there is no such file", path.string());
  }
  Sha256 hash;
  std::vector<std::byte> piece(size_t{1} << 20);
  while (const size_t count = std::fread(piece.data(), 1, piece.size(), file.get())) {
    hash.add(std::span(piece).first(count));
  }
  if (std::ferror(file.get())) return error(ErrorCode::io, "{}: cannot be read", path.string());
  return hash.hex();
}

}  // namespace impetus
