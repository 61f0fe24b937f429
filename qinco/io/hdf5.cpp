#include "qinco/io/hdf5.h"

#include "kernels/check.h"

namespace qinco {

RowLayout open_hdf5(const std::string& path) {
  fail("{}: this build has no HDF5 (install libhdf5-dev, then configure again)", path);
}

}  // namespace qinco
