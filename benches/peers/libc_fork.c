/*
 * Fork, exit and wait of an ordinary C program, which the C library is linked to at run time: what a user's own program pays
 * natively. The task and the calibration are those of `forkwait` in `linux_tasks.c`, which is the smallest process there is.
 *
 *     libc_fork BUDGET_US TSC_KHZ
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

enum { PAGE = 4096, PAGES = 16, DATA_PAGES = 8, WRITTEN_PAGES = 3 };

static volatile unsigned long *pages;

static volatile unsigned long *page_at(int page)
{
    return pages + page * (PAGE / (int)sizeof(unsigned long));
}

static unsigned long sum(void)
{
    unsigned long total = 0;
    for (int page = 0; page < DATA_PAGES; page++)
        total += *page_at(page);
    return total;
}

static void fork_and_wait(unsigned long before)
{
    pid_t child = fork();
    if (child == 0) {
        for (int page = 0; page < WRITTEN_PAGES; page++)
            *page_at(page) = 7000 + (unsigned long)page;
        _exit((int)(sum() & 0xff));
    }
    /* 0, 1 and 4 were there. */
    unsigned long expected = (before - 5 + 3 * 7000 + 3) & 0xff;
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)
        || (unsigned long)WEXITSTATUS(status) != expected || sum() != before) {
        fputs("libc_fork: a child was not what it should be\n", stderr);
        exit(1);
    }
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fputs("libc_fork: expected BUDGET_US TSC_KHZ\n", stderr);
        return 1;
    }
    unsigned long budget = strtoul(arguments[1], NULL, 10) * strtoul(arguments[2], NULL, 10) / 1000;
    pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        perror("libc_fork");
        return 1;
    }
    for (int page = 0; page < PAGES; page++)
        *page_at(page) = (unsigned long)(page * page);
    unsigned long before = sum();
    for (unsigned long iterations = 1;; iterations *= 2) {
        unsigned long start = __rdtsc();
        for (unsigned long i = 0; i < iterations; i++)
            fork_and_wait(before);
        unsigned long cycles = __rdtsc() - start;
        if (cycles >= budget / 2) {
            printf("result forkwait_libc %lu %lu\n", iterations, cycles);
            return 0;
        }
    }
}
