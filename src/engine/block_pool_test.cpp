#include "engine/block_pool.h"

#include <list>
#include <map>
#include <random>

#include <gtest/gtest.h>

namespace impetus {
namespace {

using Tokens = std::vector<TokenId>;

TEST(BlockPool, GivesEveryBlockOnce) {
  BlockPool pool(3, 2);
  EXPECT_EQ(pool.allocate(), 0);
  EXPECT_EQ(pool.allocate(), 1);
  EXPECT_EQ(pool.allocate(), 2);
  EXPECT_EQ(pool.allocate(), std::nullopt);
  pool.release(1);
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(pool.allocate(), 1);
}

TEST(BlockPool, FindsAPublishedBlockUntilItIsReused) {
  BlockPool pool(2, 2);
  const BlockId a = *pool.allocate();
  const auto published = pool.publish(a, BlockPool::root, Tokens{1, 2});
  pool.release(a);
  EXPECT_EQ(pool.cached(), 1);
  EXPECT_EQ(pool.available(), 2);
  const auto found = pool.find(BlockPool::root, Tokens{1, 2});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->chain, published.chain);
  EXPECT_FALSE(pool.find(BlockPool::root, Tokens{2, 1}));
  EXPECT_FALSE(pool.find(published.chain, Tokens{1, 2}));
  EXPECT_NE(*pool.allocate(), a);  // what holds nothing goes first
  EXPECT_EQ(*pool.allocate(), a);
  EXPECT_FALSE(pool.find(BlockPool::root, Tokens{1, 2}));
}

TEST(BlockPool, ReusesTheLeastRecentlyUsedFirst) {
  BlockPool pool(3, 1);
  for (TokenId t = 0; t < 3; ++t) pool.publish(*pool.allocate(), BlockPool::root, Tokens{t});
  for (BlockId id : {2, 0, 1}) pool.release(id);
  pool.retain(2);
  pool.release(2);
  EXPECT_EQ(pool.allocate(), 0);
  EXPECT_EQ(pool.allocate(), 1);
  EXPECT_EQ(pool.allocate(), 2);
}

TEST(BlockPool, AChildOfAReusedParentIsNotFoundUnderItsSuccessor) {
  BlockPool pool(2, 1);
  const BlockId parent = *pool.allocate();
  const BlockId child = *pool.allocate();
  const auto first = pool.publish(parent, BlockPool::root, Tokens{7});
  pool.publish(child, first.chain, Tokens{8});
  pool.release(parent);  // the wrong way round, so that the parent goes first
  pool.release(child);
  const BlockId again = *pool.allocate();
  ASSERT_EQ(again, parent);
  const auto second = pool.publish(again, BlockPool::root, Tokens{9});
  EXPECT_FALSE(pool.find(second.chain, Tokens{8}));
}

TEST(BlockPool, PublishingTheSameTwiceKeepsOne) {
  BlockPool pool(2, 2);
  const BlockId a = *pool.allocate(), b = *pool.allocate();
  const auto first = pool.publish(a, BlockPool::root, Tokens{1, 2});
  const auto second = pool.publish(b, BlockPool::root, Tokens{1, 2});
  EXPECT_EQ(second.block, a);
  EXPECT_EQ(second.chain, first.chain);
  EXPECT_EQ(pool.owners(a), 2);
  EXPECT_EQ(pool.owners(b), 0);
}

TEST(BlockPool, ForgetsWithAndWithoutOwner) {
  BlockPool pool(2, 1);
  const BlockId a = *pool.allocate(), b = *pool.allocate();
  pool.publish(a, BlockPool::root, Tokens{1});
  pool.publish(b, BlockPool::root, Tokens{2});
  pool.release(b);
  pool.forget(a);
  pool.forget(b);
  pool.forget(b);
  EXPECT_FALSE(pool.find(BlockPool::root, Tokens{1}));
  EXPECT_FALSE(pool.find(BlockPool::root, Tokens{2}));
  EXPECT_EQ(pool.cached(), 0);
  pool.release(a);
  EXPECT_EQ(pool.available(), 2);
}

// With every hash equal, and with 64 bits, the pool finds what a plain map of whole prefixes finds.
TEST(BlockPool, CollisionsNeverMixPrefixes) {
  for (const uint64_t mask : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
    std::mt19937 random(7);
    BlockPool pool(32, 2, mask);
    std::map<BlockId, Tokens> holds;  // whole prefix up to and with this block
    for (int round = 0; round < 3000; ++round) {
      BlockPool::Chain chain = BlockPool::root;
      Tokens prefix;
      std::vector<BlockId> mine;
      const int length = 1 + static_cast<int>(random() % 6);
      for (int i = 0; i < length; ++i) {
        const Tokens tokens{static_cast<TokenId>(random() % 3), static_cast<TokenId>(random() % 2)};
        prefix.insert(prefix.end(), tokens.begin(), tokens.end());
        auto found = pool.find(chain, tokens);
        if (found) {
          ASSERT_EQ(holds.at(found->block), prefix);
          pool.retain(found->block);
        } else {
          const BlockId fresh = *pool.allocate();
          holds[fresh] = prefix;
          found = pool.publish(fresh, chain, tokens);
          ASSERT_EQ(found->block, fresh);
        }
        chain = found->chain;
        mine.push_back(found->block);
      }
      while (!mine.empty()) {
        pool.release(mine.back());
        mine.pop_back();
      }
      ASSERT_EQ(pool.used(), 0);
    }
  }
}

}  // namespace
}  // namespace impetus
