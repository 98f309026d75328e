/* A machine that has slept: the clocks that count sleep are ahead by as many seconds as the file
 * says that SLEPT names; the one that does not, by which timers run, is as it is. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *slept;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SLEPT");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *slept, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED)
        abort();
    slept = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && slept && (clock == CLOCK_REALTIME || clock == CLOCK_BOOTTIME))
        time->tv_sec += *slept;
    return result;
}
