// Whether this build has AddressSanitizer, and memory that it is to watch besides what malloc gives.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define QINCO_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QINCO_ADDRESS_SANITIZER 1
#endif
#endif

#if defined(QINCO_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif

namespace qinco {

#if defined(QINCO_ADDRESS_SANITIZER)
inline constexpr bool kAddressSanitizer = true;
inline void forbid_access(const volatile void* memory, size_t bytes) {
  __asan_poison_memory_region(memory, bytes);
}
inline void allow_access(const volatile void* memory, size_t bytes) {
  __asan_unpoison_memory_region(memory, bytes);
}
#else
inline constexpr bool kAddressSanitizer = false;
inline void forbid_access(const volatile void*, size_t) {}
inline void allow_access(const volatile void*, size_t) {}
#endif

}  // namespace qinco
