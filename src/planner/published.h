// Plans on paper held against speeds that others published: how far to trust them.
#pragma once

#include <vector>

#include "hardware/known_machines.h"

namespace impetus {

struct PublishedCheck {
  const PublishedRate* published = nullptr;
  double predicted = 0;  // tokens a second, as published
  double bound = 0;      // what the data sheet allows at most
  double error() const { return predicted / published->tokens_per_second - 1; }
};

// Those whose machine, model, type and phase a plan can speak of; the others are left out.
std::vector<PublishedCheck> check_published();

// The median of |error|; 0 of none.
double median_error(const std::vector<PublishedCheck>& checks);

}  // namespace impetus
