#include "engine/block_pool.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace impetus {

BlockPool::BlockPool(int32_t blocks, int32_t block_tokens, uint64_t hash_mask)
    : block_tokens_(block_tokens), hash_mask_(hash_mask) {
  assert(blocks >= 0 && block_tokens > 0);
  entries_.resize(blocks);
  tokens_.resize(static_cast<size_t>(blocks) * block_tokens);
  buckets_.assign(std::bit_ceil(static_cast<size_t>(blocks) * 2 + 1), none);
  empty_.resize(blocks);
  for (int32_t i = 0; i < blocks; ++i) empty_[i] = blocks - 1 - i;  // block 0 is given first
}

std::optional<BlockId> BlockPool::allocate() {
  BlockId id;
  if (!empty_.empty()) {
    id = empty_.back();
    empty_.pop_back();
  } else if (oldest_ != none) {
    id = oldest_;
    unlink(id);
    unpublish(id);
  } else {
    return std::nullopt;
  }
  assert(entries_[id].owners == 0 && entries_[id].chain == root);
  entries_[id].owners = 1;
  return id;
}

void BlockPool::retain(BlockId id) {
  Entry& entry = entries_[id];
  assert(entry.owners > 0 || entry.chain != root);
  if (entry.owners++ == 0) unlink(id);
}

void BlockPool::release(BlockId id) {
  Entry& entry = entries_[id];
  assert(entry.owners > 0);
  if (--entry.owners > 0) return;
  if (entry.chain != root) {
    append_newest(id);
  } else {
    empty_.push_back(id);
  }
}

std::optional<BlockPool::Found> BlockPool::find(Chain parent,
                                                std::span<const TokenId> tokens) const {
  assert(static_cast<int32_t>(tokens.size()) == block_tokens_);
  const uint64_t wanted = hash(parent, tokens);
  for (BlockId id = buckets_[wanted & (buckets_.size() - 1)]; id != none;
       id = entries_[id].next_same) {
    const Entry& entry = entries_[id];
    if (entry.hash == wanted && entry.parent == parent && std::ranges::equal(tokens_of(id), tokens))
      return Found{id, entry.chain};
  }
  return std::nullopt;
}

BlockPool::Found BlockPool::publish(BlockId id, Chain parent, std::span<const TokenId> tokens) {
  Entry& entry = entries_[id];
  assert(entry.owners > 0 && entry.chain == root);
  if (const auto same = find(parent, tokens)) {
    retain(same->block);
    release(id);
    return *same;
  }
  entry.parent = parent;
  entry.chain = next_chain_++;
  entry.hash = hash(parent, tokens);
  std::ranges::copy(tokens, tokens_.begin() + static_cast<int64_t>(id) * block_tokens_);
  BlockId& bucket = buckets_[entry.hash & (buckets_.size() - 1)];
  entry.next_same = bucket;
  bucket = id;
  return Found{id, entry.chain};
}

void BlockPool::forget(BlockId id) {
  Entry& entry = entries_[id];
  if (entry.chain == root) return;
  unpublish(id);
  if (entry.owners == 0) {
    unlink(id);
    empty_.push_back(id);
  }
}

uint64_t BlockPool::hash(Chain parent, std::span<const TokenId> tokens) const {
  // Multiply and fold a token, finish with MurmurHash3's 64-bit finaliser (public domain).
  uint64_t h = parent * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
  for (const TokenId token : tokens) {
    h = (h ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
  }
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
  return (h ^ (h >> 33)) & hash_mask_;
}

std::span<const TokenId> BlockPool::tokens_of(BlockId id) const {
  return {tokens_.data() + static_cast<size_t>(id) * block_tokens_,
          static_cast<size_t>(block_tokens_)};
}

void BlockPool::unpublish(BlockId id) {
  BlockId* link = &buckets_[entries_[id].hash & (buckets_.size() - 1)];
  while (*link != id) link = &entries_[*link].next_same;
  *link = entries_[id].next_same;
  entries_[id].next_same = none;
  entries_[id].chain = root;
}

void BlockPool::append_newest(BlockId id) {
  entries_[id].older = newest_;
  entries_[id].newer = none;
  (newest_ == none ? oldest_ : entries_[newest_].newer) = id;
  newest_ = id;
  ++cached_;
}

void BlockPool::unlink(BlockId id) {
  const Entry& entry = entries_[id];
  (entry.older == none ? oldest_ : entries_[entry.older].newer) = entry.newer;
  (entry.newer == none ? newest_ : entries_[entry.newer].older) = entry.older;
  --cached_;
}

}  // namespace impetus
