// linear, matmul, einsum, scaled_dot_product_attention.
#include <algorithm>
#include <cmath>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

// x [..., k], weight [n, k], bias [n]: the weight's rows are A of the product, so that a constant
// weight needs no packing.
Result<void> linear(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Array* weight, call.operand("weight"));
  const Array* bias = call.find("bias");
  if (x->rank() < 1 || weight->rank() != 2 || x->shape.back() != weight->shape[1]) {
    return error(ErrorCode::corrupt,
                 "x {} and weight {} do not fit: x's last dimension is not the "
                 "weight's second",
                 x->to_string(), weight->to_string());
  }
  const int64_t n = weight->shape[0], k = weight->shape[1];
  if (bias != nullptr && (bias->rank() != 1 || bias->shape[0] != n ||
                          bias->floating() != x->floating() || bias->dtype == DataType::string)) {
    return error(ErrorCode::corrupt, "bias {} does not fit {} outputs", bias->to_string(), n);
  }
  if (weight->floating() != x->floating()) {
    return error(ErrorCode::corrupt, "x {} and weight {} are of different kinds", x->to_string(),
                 weight->to_string());
  }
  Dims shape = x->shape;
  shape.back() = n;
  const int64_t rows = elements_of(Dims(shape.begin(), shape.end() - 1)).value_or(0);
  IMPETUS_TRY(Array * out, call.output(shape));
  if (out->floating() != x->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  if (out->elements() == 0) return {};
  if (!x->floating()) {
    IMPETUS_CHECK(call.charge(elements_of({rows, n, k})));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < n; ++j) {
        uint32_t sum = 0;
        for (int64_t i = 0; i < k; ++i) {
          sum += static_cast<uint32_t>(x->ints()[r * k + i]) *
                 static_cast<uint32_t>(weight->ints()[j * k + i]);
        }
        if (bias != nullptr) sum += static_cast<uint32_t>(bias->ints()[j]);
        out->ints()[r * n + j] = static_cast<int32_t>(sum);
      }
    }
    return {};
  }
  Product product;
  product.m = n;
  product.n = rows;
  product.k = k;
  product.a = weight->floats();
  product.a_row = k;
  product.b = x->floats();
  product.b_row = 1;
  product.b_column = k;
  product.c = out->floats();
  product.c_row = 1;
  product.c_column = n;
  product.row_bias = bias != nullptr ? bias->floats() : nullptr;
  product.half = call.half_sums();
  return multiply(call, product);
}

// Where each matrix of a batch begins, batch dimensions broadcast.
std::vector<int64_t> starts_of(const Dims& batch, const Dims& to, int64_t matrix) {
  const Dims strides = broadcast_strides(batch, to);
  std::vector<int64_t> starts;
  starts.reserve(static_cast<size_t>(elements_of(to).value_or(0)));
  Dims row = to;
  row.push_back(1);
  Dims steps = strides;
  steps.push_back(0);
  const std::vector<Dims> all{steps};
  rows_of(row, all, 0, elements_of(to).value_or(0),
          [&](std::span<const int64_t> at) { starts.push_back(at[0] * matrix); });
  return starts;
}

Dims leading(const Dims& shape, size_t without) {
  return Dims(shape.begin(), shape.end() - static_cast<ptrdiff_t>(without));
}

struct Matrices {
  Dims batch;
  int64_t rows = 0, columns = 0, row = 0, column = 1;  // strides
};

Result<void> matmul(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Array* y, call.operand("y"));
  IMPETUS_TRY(const bool transpose_x, call.flag("transpose_x", false));
  IMPETUS_TRY(const bool transpose_y, call.flag("transpose_y", false));
  if (x->rank() < 1 || y->rank() < 1 || x->floating() != y->floating() ||
      (transpose_x && x->rank() == 1) || (transpose_y && y->rank() == 1)) {
    return error(ErrorCode::corrupt, "x {} and y {} have no matrix product", x->to_string(),
                 y->to_string());
  }
  const auto matrices = [](Dims shape, bool left, bool transposed) {
    const bool vector = shape.size() == 1;
    if (vector && left) shape.insert(shape.begin(), 1);
    if (vector && !left) shape.push_back(1);
    Matrices m{leading(shape, 2), shape[shape.size() - 2], shape.back(), shape.back(), 1};
    if (transposed) {
      std::swap(m.rows, m.columns);
      std::swap(m.row, m.column);
    }
    return m;
  };
  const Matrices a = matrices(x->shape, true, transpose_x);
  const Matrices b = matrices(y->shape, false, transpose_y);
  if (a.columns != b.rows) {
    return error(ErrorCode::corrupt, "x {} and y {} have no matrix product: {} columns, {} rows",
                 x->to_string(), y->to_string(), a.columns, b.rows);
  }
  IMPETUS_TRY(const Dims batch, broadcast(a.batch, b.batch));
  Dims shape = batch;
  if (x->rank() > 1) shape.push_back(a.rows);
  if (y->rank() > 1) shape.push_back(b.columns);
  IMPETUS_TRY(Array * out, call.output(shape));
  if (out->floating() != x->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  const int64_t batches = elements_of(batch).value_or(0);
  IMPETUS_CHECK(call.charge(batches));
  Product product;
  product.batches = batches;
  product.m = a.rows;
  product.n = b.columns;
  product.k = a.columns;
  if (out->elements() == 0) return {};
  product.a_at = starts_of(a.batch, batch, a.rows * a.columns);
  product.b_at = starts_of(b.batch, batch, b.rows * b.columns);
  for (int64_t i = 0; i < batches; ++i) product.c_at.push_back(i * a.rows * b.columns);
  product.a_row = a.row;
  product.a_column = a.column;
  product.b_row = b.row;
  product.b_column = b.column;
  product.c_row = b.columns;
  if (!x->floating()) {
    IMPETUS_CHECK(call.charge(elements_of({batches, a.rows, b.columns, a.columns})));
    for (int64_t i = 0; i < batches; ++i) {
      const auto place = static_cast<size_t>(i);
      for (int64_t r = 0; r < product.m; ++r) {
        for (int64_t c = 0; c < product.n; ++c) {
          uint32_t sum = 0;
          for (int64_t k = 0; k < product.k; ++k) {
            sum +=
                static_cast<uint32_t>(x->ints()[product.a_at[place] + r * a.row + k * a.column]) *
                static_cast<uint32_t>(y->ints()[product.b_at[place] + k * b.row + c * b.column]);
          }
          out->ints()[product.c_at[place] + r * product.n + c] = static_cast<int32_t>(sum);
        }
      }
    }
    return {};
  }
  product.a = x->floats();
  product.b = y->floats();
  product.c = out->floats();
  product.half = call.half_sums();
  return multiply(call, product);
}

// ---- einsum ----

struct Letters {
  std::string x, y, out;
};

Result<Letters> parsed(std::string equation) {
  std::erase(equation, ' ');
  const size_t arrow = equation.find("->");
  const size_t comma = equation.find(',');
  if (arrow == std::string::npos || comma == std::string::npos || comma > arrow ||
      equation.find(',', comma + 1) != std::string::npos || equation.size() > 128) {
    return error(ErrorCode::unsupported, "equation \"{}\" is not of the form \"ab,bc->ac\"",
                 equation);
  }
  Letters letters{equation.substr(0, comma), equation.substr(comma + 1, arrow - comma - 1),
                  equation.substr(arrow + 2)};
  for (const std::string& word : {letters.x, letters.y, letters.out}) {
    for (size_t i = 0; i < word.size(); ++i) {
      const bool letter = (word[i] >= 'a' && word[i] <= 'z') || (word[i] >= 'A' && word[i] <= 'Z');
      if (!letter || word.find(word[i], i + 1) != std::string::npos) {
        return error(ErrorCode::unsupported,
                     "equation \"{}\": letters that stand once in each operand are run", equation);
      }
    }
  }
  for (const char letter : letters.out) {
    if (letters.x.find(letter) == std::string::npos &&
        letters.y.find(letter) == std::string::npos) {
      return error(ErrorCode::corrupt, "equation \"{}\": {} stands in no operand", equation,
                   letter);
    }
  }
  return letters;
}

// Sizes, and strides in both operands (0 where one lacks or repeats it), of a group of letters.
struct Group {
  std::string letters;
  Dims sizes, x_steps, y_steps;
  int64_t product = 1;
};

// Offsets of each element of a group, in both operands.
std::vector<int64_t> offsets_of(const Group& group, const Dims& steps) {
  std::vector<int64_t> offsets{0};
  for (size_t i = 0; i < group.sizes.size(); ++i) {
    std::vector<int64_t> next;
    next.reserve(offsets.size() * static_cast<size_t>(group.sizes[i]));
    for (const int64_t offset : offsets) {
      for (int64_t j = 0; j < group.sizes[i]; ++j) next.push_back(offset + j * steps[i]);
    }
    offsets = std::move(next);
  }
  return offsets;
}

Result<void> einsum(Call& call) {
  const auto values = call.all("values");
  if (values.size() != 2 || !values[0]->floating() || !values[1]->floating()) {
    return error(ErrorCode::unsupported, "{} values: two of floating point are run", values.size());
  }
  const Array* x = values[0];
  const Array* y = values[1];
  IMPETUS_TRY(const std::string equation, call.text("equation"));
  IMPETUS_TRY(const Letters letters, parsed(equation));
  if (std::cmp_not_equal(letters.x.size(), x->rank()) ||
      std::cmp_not_equal(letters.y.size(), y->rank())) {
    return error(ErrorCode::corrupt, "equation \"{}\" does not fit {} and {}", equation,
                 x->to_string(), y->to_string());
  }
  const Dims x_strides = strides_of(x->shape), y_strides = strides_of(y->shape);
  Group batch, m, n, k;
  const auto place = [&](char letter) -> Result<void> {
    const size_t in_x = letters.x.find(letter), in_y = letters.y.find(letter);
    const bool has_x = in_x != std::string::npos, has_y = in_y != std::string::npos;
    const bool kept = letters.out.find(letter) != std::string::npos;
    const int64_t from_x = has_x ? x->shape[in_x] : 1, from_y = has_y ? y->shape[in_y] : 1;
    if (from_x != from_y && from_x != 1 && from_y != 1) {
      return error(ErrorCode::corrupt, "equation \"{}\": {} is {} and {}", equation, letter, from_x,
                   from_y);
    }
    const int64_t size = from_x == 1 ? from_y : from_x;
    Group& group = has_x && has_y ? (kept ? batch : k) : !kept ? k : has_x ? m : n;
    group.letters += letter;
    group.sizes.push_back(size);
    group.x_steps.push_back(has_x && from_x == size ? x_strides[in_x] : 0);
    group.y_steps.push_back(has_y && from_y == size ? y_strides[in_y] : 0);
    return {};
  };
  for (const char letter : letters.out) IMPETUS_CHECK(place(letter));
  for (const char letter : letters.x) {
    if (letters.out.find(letter) == std::string::npos) IMPETUS_CHECK(place(letter));
  }
  for (const char letter : letters.y) {
    if (letters.out.find(letter) == std::string::npos &&
        letters.x.find(letter) == std::string::npos) {
      IMPETUS_CHECK(place(letter));
    }
  }
  for (Group* group : {&batch, &m, &n, &k}) {
    const auto product = elements_of(group->sizes);
    if (!product) return error(ErrorCode::corrupt, "sizes overflow");
    group->product = *product;
  }
  Dims shape;
  for (const char letter : letters.out) {
    for (const Group* group : {&batch, &m, &n}) {
      const size_t at = group->letters.find(letter);
      if (at != std::string::npos) shape.push_back(group->sizes[at]);
    }
  }
  IMPETUS_CHECK(call.charge(elements_of({batch.product, m.product, n.product, k.product})));
  IMPETUS_TRY(Array * out, call.output(shape));
  if (!out->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  if (out->elements() == 0) return {};
  // A [batch, m, k], copied in that order; B read through offsets; C copied to where it belongs.
  IMPETUS_TRY(const auto a,
              call.scratch(elements_of({batch.product, m.product, k.product}).value_or(-1)));
  IMPETUS_TRY(const auto c, call.scratch(out->elements()));
  IMPETUS_CHECK(call.charge(a->bytes / 4));
  const auto batch_x = offsets_of(batch, batch.x_steps), batch_y = offsets_of(batch, batch.y_steps);
  const auto m_x = offsets_of(m, m.x_steps), k_x = offsets_of(k, k.x_steps);
  const auto k_y = offsets_of(k, k.y_steps), n_y = offsets_of(n, n.y_steps);
  call.crew().ranges(batch.product * m.product, std::max<int64_t>(1, 8192 / (k.product + 1)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t row = begin; row < end; ++row) {
                         const float* from = x->floats() +
                                             batch_x[static_cast<size_t>(row / m.product)] +
                                             m_x[static_cast<size_t>(row % m.product)];
                         float* to = a->floats.data() + row * k.product;
                         for (const int64_t offset : k_x) *to++ = from[offset];
                       }
                     });
  Product product;
  product.batches = batch.product;
  product.m = m.product;
  product.n = n.product;
  product.k = k.product;
  product.a = a->floats.data();
  product.a_row = k.product;
  product.c = c->floats.data();
  product.c_row = n.product;
  for (int64_t i = 0; i < batch.product; ++i) {
    product.a_at.push_back(i * m.product * k.product);
    product.c_at.push_back(i * m.product * n.product);
  }
  product.half = call.half_sums();
  product.fill_b = [&](int64_t i, int64_t row, int64_t column, int64_t count, float* to) {
    const float* from =
        y->floats() + batch_y[static_cast<size_t>(i)] + k_y[static_cast<size_t>(row)];
    for (int64_t j = 0; j < count; ++j) to[j] = from[n_y[static_cast<size_t>(column + j)]];
  };
  IMPETUS_CHECK(multiply(call, product));
  // From (batch, m, n) order to the equation's.
  const std::string made = batch.letters + m.letters + n.letters;
  Dims made_shape, order;
  for (const Group* group : {&batch, &m, &n}) {
    made_shape.insert(made_shape.end(), group->sizes.begin(), group->sizes.end());
  }
  for (const char letter : letters.out) order.push_back(static_cast<int64_t>(made.find(letter)));
  permute(call.crew(), c->floats.data(), made_shape, order, out->floats());
  return {};
}

// ---- attention ----

Result<void> attention(Call& call) {
  IMPETUS_TRY(const Array* query, call.floating("query"));
  IMPETUS_TRY(const Array* key, call.floating("key"));
  IMPETUS_TRY(const Array* value, call.floating("value"));
  const Array* mask = call.find("attn_mask");
  const auto fail = [&](std::string_view what) {
    return error(ErrorCode::corrupt, "query {}, key {}, value {}: {}", query->to_string(),
                 key->to_string(), value->to_string(), what);
  };
  if (query->rank() < 2 || query->rank() != key->rank() || query->rank() != value->rank()) {
    return fail("ranks differ, or are below 2");
  }
  const size_t rank = query->shape.size();
  const int64_t l = query->shape[rank - 2], e = query->shape[rank - 1];
  const int64_t s = key->shape[rank - 2], ev = value->shape[rank - 1];
  if (key->shape[rank - 1] != e || value->shape[rank - 2] != s) return fail("lengths do not fit");
  IMPETUS_TRY(Dims batch, broadcast(leading(query->shape, 2), leading(key->shape, 2)));
  IMPETUS_TRY(batch, broadcast(batch, leading(value->shape, 2)));
  Dims shape = batch;
  shape.push_back(l);
  shape.push_back(ev);
  Dims scores_shape = batch;
  scores_shape.push_back(l);
  scores_shape.push_back(s);
  Dims mask_strides;
  if (mask != nullptr) {
    IMPETUS_TRY(const Dims both, broadcast(scores_shape, mask->shape));
    if (both != scores_shape || mask->dtype == DataType::string)
      return fail("the mask does not fit");
    mask_strides = broadcast_strides(mask->shape, scores_shape);
  }
  IMPETUS_TRY(Array * out, call.output(shape));
  if (!out->floating()) return fail("the result is declared of integers");
  if (out->elements() == 0) return {};
  const auto count = elements_of(scores_shape);
  IMPETUS_CHECK(call.charge(count));
  IMPETUS_TRY(const auto scores, call.scratch(count.value_or(-1)));
  const int64_t batches = elements_of(batch).value_or(0);
  Product product;
  product.batches = batches;
  product.half = call.half_sums();
  product.m = l;
  product.n = s;
  product.k = e;
  product.a = query->floats();
  product.a_row = e;
  product.a_at = starts_of(leading(query->shape, 2), batch, l * e);
  product.b = key->floats();
  product.b_row = 1;
  product.b_column = e;
  product.b_at = starts_of(leading(key->shape, 2), batch, s * e);
  product.c = scores->floats.data();
  product.c_row = s;
  for (int64_t i = 0; i < batches; ++i) product.c_at.push_back(i * l * s);
  IMPETUS_CHECK(multiply(call, product));
  const float root = std::sqrt(static_cast<float>(e));
  const bool half = call.half_sums();
  const std::vector<Dims> strides{mask != nullptr ? mask_strides : Dims(scores_shape.size(), 0)};
  const int64_t mask_step = strides[0].back();
  call.crew().ranges(batches * l, std::max<int64_t>(1, 4096 / (s + 1)),
                     [&](int64_t begin, int64_t end) {
                       float* row = scores->floats.data() + begin * s;
                       rows_of(scores_shape, strides, begin, end, [&](std::span<const int64_t> at) {
                         float top = -HUGE_VALF;
                         for (int64_t i = 0; i < s; ++i) {
                           row[i] /= root;
                           if (mask != nullptr) {
                             const int64_t place = at[0] + i * mask_step;
                             if (mask->floating()) {
                               row[i] += mask->floats()[place];
                             } else if (mask->ints()[place] == 0) {
                               row[i] = -HUGE_VALF;
                             }
                           }
                           top = row[i] > top ? row[i] : top;
                         }
                         float sum = 0;
                         for (int64_t i = 0; i < s; ++i) {
                           row[i] = std::exp(row[i] - top);
                           sum += row[i];
                           if (half) sum = rounded_f16(sum);
                         }
                         for (int64_t i = 0; i < s; ++i) row[i] /= sum;
                         row += s;
                       });
                     });
  Product weighted;
  weighted.batches = batches;
  weighted.half = half;
  weighted.m = l;
  weighted.n = ev;
  weighted.k = s;
  weighted.a = scores->floats.data();
  weighted.a_row = s;
  weighted.a_at = product.c_at;
  weighted.b = value->floats();
  weighted.b_row = ev;
  weighted.b_at = starts_of(leading(value->shape, 2), batch, s * ev);
  weighted.c = out->floats();
  weighted.c_row = ev;
  for (int64_t i = 0; i < batches; ++i) weighted.c_at.push_back(i * l * ev);
  return multiply(call, weighted);
}

constexpr Kernel kKernels[] = {
    {"linear", linear},
    {"matmul", matmul},
    {"einsum", einsum},
    {"scaled_dot_product_attention", attention},
};

}  // namespace

std::span<const Kernel> linear_kernels() {
  return kKernels;
}

}  // namespace impetus::mil
