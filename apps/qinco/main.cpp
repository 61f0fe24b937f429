#include "apps/qinco/command.h"

int main(int argc, char** argv) {
  qinco::app::Program program;
  qinco::app::add_train(program);
  qinco::app::add_encode(program);
  qinco::app::add_decode(program);
  qinco::app::add_eval(program);
  qinco::app::add_baseline(program);
  qinco::app::add_kmeans(program);
  qinco::app::add_search(program);
  qinco::app::add_pq(program);
  qinco::app::add_index(program);
  qinco::app::add_info(program);
  qinco::app::add_convert(program);
  return program.main(argc, argv);
}
