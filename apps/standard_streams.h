// What every program does first.
#pragma once

#include <fcntl.h>
#include <unistd.h>

namespace qinco::app {

/// Opens /dev/null where standard input, output or error is closed: else the first files that are opened would get
/// these numbers, and what is meant for the terminal would be written into them.
inline void open_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})  // open() gives the lowest number that is free
    if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", O_RDWR) != fd) _exit(1);
}

}  // namespace qinco::app
