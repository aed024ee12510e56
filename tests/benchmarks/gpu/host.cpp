// The same source, thread by thread: what a cluster computes, without one.
#include <string.h>
#include <stdlib.h>
#include "synthetic_engine.cu"
extern "C" void host_train(Trial* t, int n, int d, int s1) {
  static Shared s[CL];
  Thread* r = (Thread*)calloc(CL * THREADS, sizeof(Thread));
  const int width = CL * F;
  for (int rank = 0; rank < CL; rank++)
    for (int thread = 0; thread < THREADS; thread++)
      for (int p = 0; p < PER; p++)
        for (int f = 0; f < F; f++) {
          int k = thread + p * THREADS; bool is = k < d; long long at = (long long)k * width + rank * F + f;
          s[rank].w[k * F + f] = is ? t->w[at] : 0;
          r[rank * THREADS + thread].m[p][f] = is ? t->m[at] : 0;
          r[rank * THREADS + thread].v[p][f] = is ? t->v[at] : 0;
        }
  long long step = t->step; unsigned done = 0;
  for (int epoch = 0; epoch < t->epochs; epoch++)
    for (int start = 0; start < n; start += t->batch) {
      const u8* batch = t->orders + (long long)epoch * n + start;
      int count = n - start < t->batch ? n - start : t->batch, parity = done & 1; step++; done++;
#define ALL for (int rank = 0; rank < CL; rank++) for (int thread = 0; thread < THREADS; thread++)
      ALL phase_products(thread, s + rank, t, batch, count, s1);
      ALL { REAL mine = 0; phase_outputs(thread, rank, s + rank, t, batch, count, step, &mine);
            if (thread < count) for (int c = 0; c < CL; c++) s[c].peer[parity][rank][thread] = mine; }
      ALL { phase_slopes(thread, rank, s + rank, t, batch, count, parity);
            if (thread >= THREADS - 32) phase_signal(thread - (THREADS - 32), rank, s + rank, t, batch, count, parity); }
      ALL phase_update(thread, s + rank, t, batch, count, d, r + rank * THREADS + thread);
    }
  ALL for (int p = 0; p < PER; p++) for (int f = 0; f < F; f++) {
    int k = thread + p * THREADS; long long at = (long long)k * width + rank * F + f;
    if (k < d) { t->w[at] = s[rank].w[k * F + f]; t->m[at] = r[rank * THREADS + thread].m[p][f]; t->v[at] = r[rank * THREADS + thread].v[p][f]; }
  }
  free(r);
}
