// To and from the 16-bit floats: the definition.
#include "kernels/families.h"
#include "kernels/half.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

// y[i] = value(x[i])
template <class From, class To, class Value>
void convert_each(const Context& context, int64_t n, const From* x, To* y, Value value) {
  parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<To>(value(x[i]));
  });
}

template <class T>
void to_f16(const Context& context, int64_t n, const T* x, uint16_t* y) {
  convert_each(context, n, x, y, [](T value) { return f16_bits(static_cast<float>(value)); });
}

template <class T>
void from_f16(const Context& context, int64_t n, const uint16_t* x, T* y) {
  convert_each(context, n, x, y, f16_value);
}

template <class T>
void to_bf16(const Context& context, int64_t n, const T* x, uint16_t* y) {
  convert_each(context, n, x, y, [](T value) { return bf16_bits(static_cast<float>(value)); });
}

template <class T>
void from_bf16(const Context& context, int64_t n, const uint16_t* x, T* y) {
  convert_each(context, n, x, y, bf16_value);
}

}  // namespace

template <class T>
void fill_convert(Table<T>& t) {
  t.to_f16 = to_f16<T>;
  t.from_f16 = from_f16<T>;
  t.to_bf16 = to_bf16<T>;
  t.from_bf16 = from_bf16<T>;
}
template void fill_convert(Table<float>&);
template void fill_convert(Table<double>&);

}  // namespace qinco::kernels::reference
