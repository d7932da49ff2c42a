/* Stands in for GNU's OpenMP where its own threads would hide races, or invent them: each parallel
   region starts plain threads and joins them, which ThreadSanitizer follows. */

#include <pthread.h>

enum { MOST = 16 };

typedef struct {
    void (*run)(void *);
    void *of;
    int number, count;
} Thread;

static __thread Thread *current;

int omp_get_thread_num(void) { return current ? current->number : 0; }

int omp_get_num_threads(void) { return current ? current->count : 1; }

static void *start(void *thread) {
    current = thread;
    current->run(current->of);
    return 0;
}

void GOMP_parallel(void (*run)(void *), void *of, unsigned threads, unsigned flags) {
    Thread all[MOST];
    pthread_t made[MOST];
    int count = threads < MOST ? threads : MOST;
    (void)flags;
    for (int i = 0; i < count; i++) {
        all[i] = (Thread){run, of, i, count};
        if (pthread_create(made + i, 0, start, all + i))
            __builtin_abort();
    }
    for (int i = 0; i < count; i++)
        pthread_join(made[i], 0);
}
