// Attention over a cache of which each query sees a stretch: only what is seen is read.
//
// Queries that share a key-value head meet its keys together, in blocks; each block reads the keys
// that any of its queries sees, and no others. Where queries are few, the keys are what is shared
// between threads: each part yields sums of its own, which are then brought to one scale.
//
// Scores of a single token are rounded to the type of the keys, as those of a product in torch are:
// it is by such products that eager runs attend then.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tile_attention.h"
#include "vector_attention.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t TOGETHER = 256;  // queries that share one reading of the keys
constexpr int64_t FEW = 32;        // up to so many queries, keys are split
constexpr int64_t PART = 1024;     // slots that are worth a thread of their own
constexpr float NONE = -std::numeric_limits<float>::infinity();

#ifdef TRIPTYCH_TILES
// As `InVectors`, by tiles. Up to 16 queries meet keys as they lie.
class InTiles {
 public:
  static constexpr int64_t QUERIES = triptych::QUERIES;
  const int64_t KEYS;

  InTiles(int64_t width, int64_t queries, bool rounded)
      : KEYS(queries > triptych::SIDE ? triptych::KEYS : triptych::KEYS / 4),
        few_(queries <= triptych::SIDE),
        rounded_(rounded),
        head_(KEYS, width, (queries + QUERIES - 1) / QUERIES, memory(0), memory(1)) {
    std::fill(head_.sums, head_.at((queries + QUERIES - 1) / QUERIES).sums, 0.0f);
  }

  template <class At>
  void take_queries(int64_t block, int64_t count, At at) {
    head_.at(block).copy_queries(count, at);
    if (few_) head_.turn_queries();
  }

  void take_keys(const uint16_t* k, int64_t k_row, const uint16_t* v, int64_t v_row, int64_t count) {
    keys_ = {k, k_row, 0};
    few_ ? head_.take({v, v_row, 0}, count) : head_.take(keys_, {v, v_row, 0}, count);
  }

  void meet(int64_t block, int64_t count, const int64_t* begin, const int64_t* end, float scale,
            float* most, float* weight) {
    using triptych::DEEP;
    const triptych::Head head = head_.at(block);
    const int64_t first = std::max<int64_t>(*std::min_element(begin, begin + count), 0) / DEEP;
    const int64_t last = std::min(*std::max_element(end, end + count), head.keys);
    const int64_t tiles = (last + DEEP - 1) / DEEP - first;
    few_ ? head.score_few(keys_, first, tiles, rounded_) : head.score(first, tiles);
    for (int64_t i = 0; i < count; ++i) {
      float shrunk;
      const float more = head.exponentials(i, tiles, std::max<int64_t>(begin[i] - first * DEEP, 0),
                                           std::min(end[i], last) - first * DEEP, scale, most[i],
                                           shrunk);
      weight[i] = weight[i] * shrunk + more;
      if (shrunk < 1) head.shrink(i, shrunk);
    }
    few_ ? head.sum_few(first, tiles) : head.sum(first, tiles);
  }

  void told(int64_t block, int64_t row, float* to) const {
    using triptych::SIDE;
    const float* y = head_.at(block).sums + row / SIDE * head_.wide * triptych::SUMS + row % SIDE * SIDE;
    for (int64_t d = 0; d < head_.width; ++d) to[d] = y[d / SIDE * triptych::SUMS + d % SIDE];
  }

 private:
  static triptych::Scratch& memory(int which) {
    static thread_local triptych::Scratch numbers, floats;
    return which ? floats : numbers;
  }

  const bool few_, rounded_;
  triptych::Tiles tiles_;
  triptych::Head head_;
  triptych::Heads keys_{};
};
#endif

// What attends to what; the numbers of a head lie together.
template <class Number>
struct Call {
  const Number *q, *k, *v;
  const int64_t* span;  // [B, T, 2]
  Number* out;          // [B, T, H, D]
  int64_t heads, length, shared, group, slots, width;
  int64_t q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row;

  // The rows of a key-value head are the queries of its group, token by token.
  const Number* query(int64_t batch, int64_t head, int64_t row) const {
    return q + batch * q_batch + (head * group + row % group) * q_head + row / group * q_row;
  }
  Number* result(int64_t batch, int64_t head, int64_t row) const {
    return out + ((batch * length + row / group) * heads + head * group + row % group) * width;
  }
  const int64_t* seen(int64_t batch, int64_t row) const {
    return span + (batch * length + row / group) * 2;
  }
};

// Some rows of a key-value head, and the slots from `begin` to before `end`.
struct Task {
  int64_t batch, head, row, rows, begin, end;
  bool whole;       // these are all that the rows see
  int64_t partial;  // where the sums go if they are not
};

// What a row has summed: of each query the largest score, the weight, and the values.
struct Partial {
  float most = NONE, weight = 0;
  std::vector<float> sums;
};

template <class Number>
void write(const std::vector<float>& sums, float weight, Number* to) {
  for (float number : sums) triptych::store(to++, number / weight);
}

template <class Form, class Number>
void attend(const Call<Number>& call, const Task& task, std::vector<Partial>& partials) {
  constexpr int64_t QUERIES = Form::QUERIES;
  const float scale = M_LOG2E / std::sqrt(float(call.width));
  const int64_t blocks = (task.rows + QUERIES - 1) / QUERIES;
  Form form(call.width, task.rows, call.length == 1);
  std::vector<float> most(task.rows, NONE), weight(task.rows);
  const auto count = [&](int64_t block) { return std::min(QUERIES, task.rows - block * QUERIES); };
  for (int64_t block = 0; block < blocks; ++block) {
    form.take_queries(block, count(block), [&](int64_t i) {
      return call.query(task.batch, task.head, task.row + block * QUERIES + i);
    });
  }
  const Number* k = call.k + task.batch * call.k_batch + task.head * call.k_head;
  const Number* v = call.v + task.batch * call.v_batch + task.head * call.v_head;
  for (int64_t slot = task.begin; slot < task.end; slot += form.KEYS) {
    const int64_t keys = std::min<int64_t>(form.KEYS, task.end - slot);
    form.take_keys(k + slot * call.k_row, call.k_row, v + slot * call.v_row, call.v_row, keys);
    for (int64_t block = 0; block < blocks; ++block) {
      int64_t begin[QUERIES], end[QUERIES];
      bool any = false;
      for (int64_t i = 0; i < count(block); ++i) {
        const int64_t* seen = call.seen(task.batch, task.row + block * QUERIES + i);
        begin[i] = seen[0] - slot;
        end[i] = seen[1] + 1 - slot;
        any |= begin[i] < keys && end[i] > 0;
      }
      if (!any) continue;
      form.meet(block, count(block), begin, end, scale, &most[block * QUERIES],
                &weight[block * QUERIES]);
    }
  }
  std::vector<float> sums(call.width);
  for (int64_t row = 0; row < task.rows; ++row) {
    form.told(row / QUERIES, row % QUERIES, sums.data());
    if (task.whole) {
      write(sums, weight[row], call.result(task.batch, task.head, task.row + row));
    } else {
      partials[task.partial + row] = {most[row], weight[row], sums};
    }
  }
}

// The sums of the parts of one row, of `parts` that are `apart`, as one.
Partial joined(const Partial* first, int64_t parts, int64_t apart) {
  Partial all{NONE, 0, std::vector<float>(first->sums.size())};
  for (int64_t part = 0; part < parts; ++part) all.most = std::max(all.most, first[part * apart].most);
  for (int64_t part = 0; part < parts; ++part) {
    const Partial& one = first[part * apart];
    const float by = one.weight == 0 ? 0 : std::exp2(one.most - all.most);
    all.weight += one.weight * by;
    for (size_t d = 0; by > 0 && d < all.sums.size(); ++d) all.sums[d] += one.sums[d] * by;
  }
  return all;
}

template <class Form, class Number>
void attend_all(const Call<Number>& call, int64_t batches) {
  const int64_t rows = call.length * call.group;
  std::vector<Task> tasks;
  int64_t room = 0;
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (int64_t head = 0; head < call.shared; ++head) {
      for (int64_t row = 0; row < rows; row += TOGETHER) {
        const int64_t some = std::min(TOGETHER, rows - row);
        int64_t begin = call.slots, end = 0;
        for (int64_t i = 0; i < some; ++i) {
          const int64_t* seen = call.seen(batch, row + i);
          begin = std::min(begin, seen[0]);
          end = std::max(end, seen[1] + 1);
        }
        const int64_t part = rows <= FEW ? PART : call.slots;
        for (int64_t slot = begin; slot < end; slot += part) {
          const int64_t last = std::min(slot + part, end);
          tasks.push_back({batch, head, row, some, slot, last, end - begin <= part, room});
          if (!tasks.back().whole) room += some;
        }
      }
    }
  }
  std::vector<Partial> partials(room);
  torch::stable::parallel_for(0, tasks.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) attend<Form>(call, tasks[at], partials);
  });
  for (size_t at = 0; at < tasks.size();) {
    const Task& task = tasks[at];
    const auto same = [&](const Task& other) {
      return other.batch == task.batch && other.head == task.head && other.row == task.row;
    };
    int64_t parts = 0;
    for (; at < tasks.size() && same(tasks[at]); ++at) ++parts;
    for (int64_t row = 0; !task.whole && row < task.rows; ++row) {
      const Partial all = joined(&partials[task.partial + row], parts, task.rows);
      write(all.sums, all.weight, call.result(task.batch, task.head, task.row + row));
    }
  }
}

Tensor lying(const Tensor& x) {  // with the numbers of a head together
  return x.stride(3) == 1 ? x : torch::stable::contiguous(x);
}

template <class Number>
Call<Number> called(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& span,
                    const Tensor& out) {
  const auto data = [](const Tensor& x) { return static_cast<const Number*>(x.const_data_ptr()); };
  return {data(q), data(k), data(v), static_cast<const int64_t*>(span.const_data_ptr()),
          static_cast<Number*>(out.mutable_data_ptr()),
          q.size(1), q.size(2), k.size(1), q.size(1) / k.size(1), k.size(2), q.size(3),
          q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2),
          v.stride(0), v.stride(1), v.stride(2)};
}

// From q [B, H, T, D], k and v [B, K, S, D] and the first and last slot that each query sees,
// [B, T, 2], to [B, T, H, D].
Tensor cache_attention(Tensor given_q, Tensor given_k, Tensor given_v, Tensor given_span) {
  const Tensor q = lying(given_q), k = lying(given_k), v = lying(given_v);
  const Tensor span = torch::stable::contiguous(given_span);
  STD_TORCH_CHECK(k.scalar_type() == q.scalar_type() && v.scalar_type() == q.scalar_type(),
                  "queries, keys and values are of one type");
  STD_TORCH_CHECK(q.size(3) == k.size(3) && k.size(3) == v.size(3), "heads differ in width");
  STD_TORCH_CHECK(q.size(1) % k.size(1) == 0, "key-value heads must be shared evenly");
  STD_TORCH_CHECK(span.scalar_type() == ScalarType::Long, "slots are whole numbers");
  const int64_t* seen = static_cast<const int64_t*>(span.const_data_ptr());
  for (int64_t i = 0; i < span.numel(); i += 2) {
    STD_TORCH_CHECK(0 <= seen[i] && seen[i] <= seen[i + 1] && seen[i + 1] < k.size(2),
                    "a query sees slots from one that is there to one that is not before it");
  }
  Tensor out = torch::stable::new_empty(q, {q.size(0), q.size(2), q.size(1), q.size(3)});
  if (q.scalar_type() == ScalarType::Float) {
    attend_all<triptych::InVectors<float>>(called<float>(q, k, v, span, out), q.size(0));
    return out;
  }
  STD_TORCH_CHECK(q.scalar_type() == ScalarType::BFloat16, "bfloat16 or float32, no other type");
  const auto call = called<uint16_t>(q, k, v, span, out);
#ifdef TRIPTYCH_TILES
  if (triptych::tiles_granted()) {
    attend_all<InTiles>(call, q.size(0));
    return out;
  }
#endif
  attend_all<triptych::InVectors<uint16_t>>(call, q.size(0));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(triptych, CPU, m) { m.impl("cache_attention", TORCH_BOX(&cache_attention)); }
