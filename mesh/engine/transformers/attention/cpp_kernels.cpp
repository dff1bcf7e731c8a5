// Attention of single tokens, each over the keys and values of its row, which lie in pages.
//
// A row is computed in parts of a fixed number of tokens at fixed places, which are then put together in order: nothing
// that is added up depends on the other rows or on the number of threads. Vectors are the compiler's own, so that any
// processor will do.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t PART = 256;  // tokens
constexpr int64_t AHEAD = 4;   // tokens to fetch before they are needed
constexpr int64_t HEADS = 4;   // heads that are computed from one reading of a key
constexpr int64_t WIDE = 4;    // vectors of a value that are added up at a time

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
typedef float Floats8 __attribute__((vector_size(32)));
typedef float Floats4 __attribute__((vector_size(16)));

struct BFloat16 {
    uint16_t bits;
};

inline Floats load(const float* from) {
    Floats found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

inline Floats load(const BFloat16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    Floats found;
    std::memcpy(&found, &words, sizeof found);
    return found;
}

inline void store(float value, float* to) { *to = value; }

inline void store(float value, BFloat16* to) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    // To the nearest, or the even one of two; NaN stays NaN.
    to->bits = value != value ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline float sum(Floats x) {
    Floats8 low, high;
    std::memcpy(&low, &x, sizeof low);
    std::memcpy(&high, reinterpret_cast<char*>(&x) + sizeof low, sizeof high);
    low += high;
    Floats4 a, b;
    std::memcpy(&a, &low, sizeof a);
    std::memcpy(&b, reinterpret_cast<char*>(&low) + sizeof a, sizeof b);
    a += b;
    return (a[0] + a[2]) + (a[1] + a[3]);
}

// e to the power of x, for x up to 0. NaN stays NaN.
inline Floats exponential(Floats x) {
    const Floats least = Floats{} - 87.0f;
    x = x < least ? least : x;
    const Ints whole = __builtin_convertvector(x * 1.44269504088896341f - 0.5f, Ints);
    const Floats n = __builtin_convertvector(whole, Floats);
    const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const Ints bits = (whole + 127) << 23;
    Floats power;
    std::memcpy(&power, &bits, sizeof power);
    return (p * r * r + r + 1.0f) * power;
}

}  // namespace

// What is asked for. Sizes and strides are counted in elements.
struct Call {
    const void* queries;  // [rows, heads, key_size], the last without gaps
    const void* keys;     // [tokens, kv_heads, key_size]
    const void* values;   // [tokens, kv_heads, value_size]
    const float* sinks;   // [heads] or none
    void* out;            // [rows, heads, value_size]
    const int64_t* tables;   // [rows, table_width], the pages of each row
    const int64_t* lengths;  // [rows], the row's tokens
    int64_t rows, heads, kv_heads, key_size, value_size, page_size, table_width;
    int64_t query_row, query_head;
    int64_t window;  // tokens that are seen; 0 is all
    float scaling, softcap;  // a soft cap of 0 is none
};

namespace {

// Tokens of a row: those from part * PART on.
struct Part {
    int64_t row, part;
};

// What a part contributes to a head: values by weight, the sum of the weights, and the score that has weight 1.
struct Partial {
    float* values;
    float* weight;
    float* most;
};

template <typename T>
class Attention {
   public:
    explicit Attention(const Call& call)
        : call_(call), group_(call.heads / call.kv_heads), width_(call.value_size + 2) {
        for (int64_t row = 0; row < call.rows; ++row) {
            starts_.push_back(parts_.size());
            for (int64_t part = first(row) / PART; part * PART < call.lengths[row]; ++part) parts_.push_back({row, part});
        }
        starts_.push_back(parts_.size());
    }

    void run() {
        static thread_local std::vector<float> scratch;
        scratch.resize(parts_.size() * call_.heads * width_);
        scratch_ = scratch.data();
        const int64_t tasks = parts_.size() * call_.kv_heads;
#pragma omp parallel for schedule(dynamic, 2)
        for (int64_t task = 0; task < tasks; ++task) compute(task / call_.kv_heads, task % call_.kv_heads);
#pragma omp parallel for schedule(static)
        for (int64_t row = 0; row < call_.rows; ++row) join(row);
    }

   private:
    const Call& call_;
    const int64_t group_, width_;
    std::vector<Part> parts_;
    std::vector<int64_t> starts_;  // of each row's parts, and the end
    float* scratch_ = nullptr;

    int64_t first(int64_t row) const {
        return call_.window ? std::max<int64_t>(0, call_.lengths[row] - call_.window) : 0;
    }

    Partial partial(int64_t index, int64_t head) const {
        float* place = scratch_ + (index * call_.heads + head) * width_;
        return {place, place + call_.value_size, place + call_.value_size + 1};
    }

    void compute(int64_t index, int64_t kv_head) const {
        const auto [row, part] = parts_[index];
        const int64_t begin = std::max(first(row), part * PART), end = std::min(call_.lengths[row], (part + 1) * PART);
        const int64_t count = end - begin;
        int64_t places[PART];  // of the tokens, in the cache
        const int64_t* table = call_.tables + row * call_.table_width;
        for (int64_t token = begin; token < end;) {
            const int64_t page = token / call_.page_size, stop = std::min(end, (page + 1) * call_.page_size);
            for (int64_t place = table[page] * call_.page_size + token % call_.page_size; token < stop; ++token, ++place)
                places[token - begin] = place * call_.kv_heads + kv_head;
        }
        static thread_local std::vector<float> buffer;
        buffer.resize(group_ * (PART + call_.key_size));
        float *scores = buffer.data(), *queries = scores + group_ * PART;
        const T* query = static_cast<const T*>(call_.queries) + row * call_.query_row;
        for (int64_t head = 0; head < group_; ++head) {
            const T* from = query + (kv_head * group_ + head) * call_.query_head;
            for (int64_t place = 0; place < call_.key_size; place += LANES) {
                const Floats scaled = load(from + place) * call_.scaling;
                std::memcpy(queries + head * call_.key_size + place, &scaled, sizeof scaled);
            }
        }
        score(queries, places, count, scores);
        for (int64_t head = 0; head < group_; ++head)
            weigh(scores + head * PART, count, partial(index, kv_head * group_ + head));
        add_up(scores, places, count, partial(index, kv_head * group_).values);
    }

    // Products of the queries [group, key_size] and the keys at `places`, to `scores` [group, PART].
    void score(const float* queries, const int64_t* places, int64_t count, float* scores) const {
        for (int64_t head = 0; head < group_; head += HEADS, queries += HEADS * call_.key_size, scores += HEADS * PART) {
            switch (std::min(HEADS, group_ - head)) {
                case 1: score<1>(queries, places, count, scores); break;
                case 2: score<2>(queries, places, count, scores); break;
                case 3: score<3>(queries, places, count, scores); break;
                default: score<4>(queries, places, count, scores);
            }
        }
    }

    template <int64_t N>
    void score(const float* queries, const int64_t* places, int64_t count, float* scores) const {
        switch (call_.key_size) {
            case 64: return score_sized<N, 64>(queries, places, count, scores);
            case 128: return score_sized<N, 128>(queries, places, count, scores);
            default: return score_sized<N, 0>(queries, places, count, scores);
        }
    }

    template <int64_t N, int64_t SIZE>
    void score_sized(const float* queries, const int64_t* places, int64_t count, float* scores) const {
        const int64_t size = SIZE ? SIZE : call_.key_size;
        const T* keys = static_cast<const T*>(call_.keys);
        for (int64_t token = 0; token < count; ++token) {
            const T* key = keys + places[token] * size;
            const T* next = keys + places[std::min(token + AHEAD, count - 1)] * size;
            Floats sums[N] = {};
            for (int64_t place = 0; place < size; place += LANES) {
                __builtin_prefetch(next + place);
                const Floats part = load(key + place);
                for (int64_t head = 0; head < N; ++head) sums[head] += part * load(queries + head * size + place);
            }
            for (int64_t head = 0; head < N; ++head) scores[head * PART + token] = sum(sums[head]);
        }
    }

    // Makes weights of one head's scores.
    void weigh(float* scores, int64_t count, const Partial& to) const {
        if (call_.softcap != 0.0f)
            for (int64_t token = 0; token < count; ++token)
                scores[token] = std::tanh(scores[token] / call_.softcap) * call_.softcap;
        const int64_t rest = (count + LANES - 1) / LANES * LANES;
        for (int64_t token = count; token < rest; ++token) scores[token] = -FLT_MAX;
        Floats largest = load(scores);
        for (int64_t token = LANES; token < rest; token += LANES) {
            const Floats other = load(scores + token);
            largest = other > largest ? other : largest;
        }
        float most = largest[0];
        for (int64_t lane = 1; lane < LANES; ++lane) most = std::max(most, largest[lane]);
        Floats total = {};
        for (int64_t token = 0; token < rest; token += LANES) {
            const Floats weights = exponential(load(scores + token) - most);
            std::memcpy(scores + token, &weights, sizeof weights);
            total += weights;
        }
        *to.most = most;
        *to.weight = sum(total);
    }

    // Values at `places` by the weights [group, PART], to `out` [group, width_].
    void add_up(const float* weights, const int64_t* places, int64_t count, float* out) const {
        for (int64_t head = 0; head < group_; head += HEADS, weights += HEADS * PART, out += HEADS * width_) {
            switch (std::min(HEADS, group_ - head)) {
                case 1: add_up<1>(weights, places, count, out); break;
                case 2: add_up<2>(weights, places, count, out); break;
                case 3: add_up<3>(weights, places, count, out); break;
                default: add_up<4>(weights, places, count, out);
            }
        }
    }

    template <int64_t N>
    void add_up(const float* weights, const int64_t* places, int64_t count, float* out) const {
        int64_t column = 0;
        for (; column + WIDE * LANES <= call_.value_size; column += WIDE * LANES)
            add_columns<N, WIDE>(weights, places, count, column, out + column);
        for (; column < call_.value_size; column += LANES)
            add_columns<N, 1>(weights, places, count, column, out + column);
    }

    template <int64_t N, int64_t VECTORS>
    void add_columns(const float* weights, const int64_t* places, int64_t count, int64_t column, float* out) const {
        const T* values = static_cast<const T*>(call_.values) + column;
        Floats sums[N][VECTORS] = {};
        for (int64_t token = 0; token < count; ++token) {
            const T* value = values + places[token] * call_.value_size;
            const T* next = values + places[std::min(token + AHEAD, count - 1)] * call_.value_size;
            for (int64_t vector = 0; vector < VECTORS; ++vector) {
                __builtin_prefetch(next + vector * LANES);
                const Floats part = load(value + vector * LANES);
                for (int64_t head = 0; head < N; ++head) sums[head][vector] += part * weights[head * PART + token];
            }
        }
        for (int64_t head = 0; head < N; ++head)
            std::memcpy(out + head * width_, sums[head], sizeof sums[head]);
    }

    // Puts the parts of a row together.
    void join(int64_t row) const {
        const int64_t begin = starts_[row], end = starts_[row + 1];
        for (int64_t head = 0; head < call_.heads; ++head) {
            float most = call_.sinks ? call_.sinks[head] : -FLT_MAX;
            for (int64_t index = begin; index < end; ++index) most = std::max(most, *partial(index, head).most);
            float total = call_.sinks ? std::exp(call_.sinks[head] - most) : 0.0f;
            float* sums = partial(begin, head).values;
            for (int64_t index = begin; index < end; ++index) {
                const Partial from = partial(index, head);
                const float share = std::exp(*from.most - most);
                total += *from.weight * share;
                for (int64_t place = 0; place < call_.value_size; ++place)
                    sums[place] = (index == begin ? 0.0f : sums[place]) + from.values[place] * share;
            }
            T* out = static_cast<T*>(call_.out) + (row * call_.heads + head) * call_.value_size;
            for (int64_t place = 0; place < call_.value_size; ++place) store(sums[place] / total, out + place);
        }
    }
};

}  // namespace

extern "C" void mesh_attend_float(const Call* call) { Attention<float>(*call).run(); }
extern "C" void mesh_attend_bfloat16(const Call* call) { Attention<BFloat16>(*call).run(); }
