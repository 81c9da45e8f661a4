#include "text/unicode.h"

#include <algorithm>
#include <cstring>
#include <map>

#include <utf8proc.h>

namespace impetus::unicode {
namespace {

uint8_t compute_classes(uint32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  uint8_t bits = 0;
  switch (category) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      bits = letter | word;
      break;
    case UTF8PROC_CATEGORY_MN:
      bits = mark | nonspacing | word;
      break;
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      bits = mark | word;
      break;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
      bits = number | word;
      break;
    case UTF8PROC_CATEGORY_NO:
      bits = number;
      break;
    case UTF8PROC_CATEGORY_PC:
      bits = punctuation | word;
      break;
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      bits = punctuation;
      break;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      bits = space;
      break;
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
      bits = other;
      break;
    default:
      break;
  }
  if ((code >= 0x09 && code <= 0x0D) || code == 0x85) bits |= space;
  if (code == 0x200C || code == 0x200D) bits |= word;
  // Other_Alphabetic that is not a mark: the circled and squared Latin letters.
  if ((code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
      (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189)) {
    bits |= word;
  }
  return bits;
}

// 0 where no valid sequence starts at `i`.
size_t sequence_at(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) {
    return k < text.size() ? static_cast<uint8_t>(text[k]) : uint8_t{0};
  };
  const auto tail = [&](size_t k) { return (byte(k) & 0xC0) == 0x80; };
  const uint8_t a = byte(i);
  if (a < 0x80) return 1;
  if (a < 0xC2) return 0;
  if (a < 0xE0) return tail(i + 1) ? 2 : 0;
  if (a < 0xF0) {
    if (!tail(i + 1) || !tail(i + 2)) return 0;
    if (a == 0xE0 && byte(i + 1) < 0xA0) return 0;  // overlong
    if (a == 0xED && byte(i + 1) > 0x9F) return 0;  // surrogate
    return 3;
  }
  if (a > 0xF4 || !tail(i + 1) || !tail(i + 2) || !tail(i + 3)) return 0;
  if (a == 0xF0 && byte(i + 1) < 0x90) return 0;
  if (a == 0xF4 && byte(i + 1) > 0x8F) return 0;
  return 4;
}

const utf8proc_property_t& property(uint32_t code) {
  return *utf8proc_get_property(static_cast<utf8proc_int32_t>(code));
}

}  // namespace

ClassTable::ClassTable() {
  std::map<std::array<uint8_t, 256>, uint16_t> known;
  for (uint32_t block = 0; block < block_of_.size(); ++block) {
    std::array<uint8_t, 256> bits{};
    // Planes 4 to 13 are unassigned: class 0 throughout.
    if (block < 0x400 || block >= 0xE00) {
      for (uint32_t i = 0; i < 256; ++i) bits[i] = compute_classes(block * 256 + i);
    }
    const auto [entry, added] = known.try_emplace(bits, static_cast<uint16_t>(blocks_.size()));
    if (added) blocks_.push_back(bits);
    block_of_[block] = entry->second;
  }
}

const ClassTable& ClassTable::get() {
  static const ClassTable table;
  return table;
}

bool is_ascii(std::string_view text) {
  const char* p = text.data();
  const char* const end = p + text.size();
  uint64_t seen = 0;
  for (; end - p >= 8; p += 8) {
    uint64_t chunk;
    std::memcpy(&chunk, p, 8);
    seen |= chunk;
  }
  for (; p < end; ++p) seen |= static_cast<uint8_t>(*p);
  return (seen & 0x8080808080808080ull) == 0;
}

size_t valid_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (text.size() - i >= 8) {
      uint64_t chunk;
      std::memcpy(&chunk, text.data() + i, 8);
      if ((chunk & 0x8080808080808080ull) == 0) {
        i += 8;
        continue;
      }
    }
    const size_t n = sequence_at(text, i);
    if (n == 0) return i;
    i += n;
  }
  return i;
}

void append(std::string& out, uint32_t code) {
  char bytes[4];
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code),
                                      reinterpret_cast<utf8proc_uint8_t*>(bytes));
  out.append(bytes, static_cast<size_t>(n));
}

std::string repaired(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 8);
  while (true) {
    const size_t good = valid_prefix(text);
    out.append(text.substr(0, good));
    if (good == text.size()) return out;
    out.append("\xEF\xBF\xBD");
    text.remove_prefix(good + 1);
  }
}

void append_lower(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code));
  } else if (code == 0x130) {  // the only code point whose lower case is two
    out.append("i\xCC\x87");
  } else {
    append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
  }
}

bool is_surely_nfc(std::string_view text) {
  if (is_ascii(text)) return true;
  for (const char* p = text.data(); p < text.data() + text.size();) {
    const auto [code, bytes] = decode(p);
    p += bytes;
    if (code < 0x300) continue;
    // Only marks and conjoining jamo combine with, or reorder against, what stands before them.
    if (is(code, mark) || (code >= 0x1100 && code < 0x1200)) return false;
    const utf8proc_property_t& info = property(code);
    if (info.comp_exclusion) return false;
    if (info.decomp_type == 0 && info.decomp_seqindex != UINT16_MAX) {
      utf8proc_int32_t parts[8];
      int boundary = 0;
      const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts, 8,
                                             UTF8PROC_DECOMPOSE, &boundary);
      // Some are replaced for good (singletons): only what composes back may stay.
      if (n < 1 || n > 8 ||
          utf8proc_normalize_utf32(
              parts, n, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE)) != 1 ||
          parts[0] != static_cast<utf8proc_int32_t>(code)) {
        return false;
      }
    }
  }
  return true;
}

std::string normalize(std::string_view text, Form form) {
  const bool compose = form == Form::nfc || form == Form::nfkc;
  const bool compatible = form == Form::nfkc || form == Form::nfkd;
  if (is_ascii(text) || (form == Form::nfc && is_surely_nfc(text))) return std::string(text);

  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size() + 16);
  int boundary = 0;
  for (const char* p = text.data(); p < text.data() + text.size();) {
    const auto [code, bytes] = decode(p);
    p += bytes;
    utf8proc_int32_t parts[32];  // the longest decomposition in Unicode has 18
    const auto n =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts, 32, options, &boundary);
    if (n < 0 || n > 32) {
      codes.push_back(static_cast<utf8proc_int32_t>(code));
    } else {
      codes.insert(codes.end(), parts, parts + n);
    }
  }
  // utf8proc's own ordering is quadratic in a run of marks, which hostile text can make long.
  const auto order = [](utf8proc_int32_t code) {
    return utf8proc_get_property(code)->combining_class;
  };
  std::vector<uint64_t> marks;
  for (size_t i = 0; i < codes.size();) {
    if (order(codes[i]) == 0) {
      ++i;
      continue;
    }
    size_t j = i + 1;
    while (j < codes.size() && order(codes[j]) != 0) ++j;
    // Stable by (class, place): both packed above the code point, which has 21 bits.
    marks.clear();
    for (size_t k = i; k < j; ++k) {
      marks.push_back(static_cast<uint64_t>(order(codes[k])) << 56 |
                      static_cast<uint64_t>(k - i) << 21 | static_cast<uint64_t>(codes[k]));
    }
    std::sort(marks.begin(), marks.end());
    for (size_t k = i; k < j; ++k)
      codes[k] = static_cast<utf8proc_int32_t>(marks[k - i] & 0x1FFFFF);
    i = j;
  }
  size_t count = codes.size();
  if (compose) {
    const auto n = utf8proc_normalize_utf32(
        codes.data(), static_cast<utf8proc_ssize_t>(codes.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n >= 0) count = static_cast<size_t>(n);
  }
  std::string out;
  out.reserve(text.size() + 16);
  for (size_t i = 0; i < count; ++i) append(out, static_cast<uint32_t>(codes[i]));
  return out;
}

int columns(uint32_t code) {
  if (code >= 0x20 && code < 0x7F) return 1;
  return utf8proc_charwidth(static_cast<utf8proc_int32_t>(code));
}

}  // namespace impetus::unicode
