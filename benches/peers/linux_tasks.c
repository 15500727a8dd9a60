/*
 * What `uml.sh` times on a Linux kernel: the same static binary on the host and in User-mode Linux.
 *
 * It uses no C library: a process is then as small as a process can be, which is the hardest thing to be compared with.
 * Time is the TSC, as in trivisor's guests (`workloads/lib/measure.rs`), and so is the calibration: batches that double
 * until one takes half the budget, of which only the last counts. Each task checks that what it times has happened.
 *
 *     linux_tasks frequency                              the TSC in kHz, from 200 ms of the kernel's clock
 *     linux_tasks measure BUDGET_US TSC_KHZ SHELL        all tasks; SHELL is a busybox
 *     linux_tasks leave                                  ends at once: the program that fork+exec starts
 *
 * A result is a line `result NAME ITERATIONS CYCLES`. Exit status: 0, or 1 with a line on standard error.
 */

typedef unsigned long word;

enum {
    SYS_WRITE = 1,
    SYS_MMAP = 9,
    SYS_FORK = 57,
    SYS_EXECVE = 59,
    SYS_EXIT = 60,
    SYS_WAIT4 = 61,
    SYS_GETPPID = 110,
    SYS_CLOCK_GETTIME = 228,
};

enum { CLOCK_MONOTONIC_RAW = 4 };

/* As the guest `forkwait`: a process has 16 pages of its own, of which the child reads 8 and writes 3. */
enum { PAGE = 4096, PAGES = 16, DATA_PAGES = 8, WRITTEN_PAGES = 3 };

/* Turns of the shell's loops. */
#define COUNTED "100000"
#define STARTED "200"

static word system_call(word number, word a, word b, word c, word d, word e, word f)
{
    word result;
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = e;
    register word r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static word call0(word number)
{
    return system_call(number, 0, 0, 0, 0, 0, 0);
}

static word call3(word number, word a, word b, word c)
{
    return system_call(number, a, b, c, 0, 0, 0);
}

static _Noreturn void leave(int status)
{
    for (;;)
        call3(SYS_EXIT, (word)status, 0, 0);
}

static word length(const char *text)
{
    word n = 0;
    while (text[n])
        n++;
    return n;
}

static void print(int file, const char *text)
{
    call3(SYS_WRITE, (word)file, (word)text, length(text));
}

static _Noreturn void fail(const char *what)
{
    print(2, "linux_tasks: ");
    print(2, what);
    print(2, "\n");
    leave(1);
}

/* Writes `value` in decimal so that it ends before `end`; returns where it begins. */
static char *decimal(char *end, word value)
{
    do {
        *--end = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    return end;
}

static word number_of(const char *text)
{
    word value = 0;
    if (!*text)
        fail("a number is missing");
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || value > 1000000000000)
            fail("that is not a number in range");
        value = value * 10 + (word)(*text - '0');
    }
    return value;
}

/* In program order: what is timed has begun and ended. */
static word ticks(void)
{
    unsigned low, high;
    __asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
    return (word)high << 32 | low;
}

static void report(const char *name, word iterations, word cycles)
{
    char number[24];
    number[23] = 0;
    print(1, "result ");
    print(1, name);
    print(1, " ");
    print(1, decimal(number + 23, iterations));
    print(1, " ");
    print(1, decimal(number + 23, cycles));
    print(1, "\n");
}

static void measure(const char *name, word budget, void (*task)(void))
{
    word iterations = 1;
    for (;;) {
        word start = ticks();
        for (word i = 0; i < iterations; i++)
            task();
        word cycles = ticks() - start;
        if (cycles >= budget / 2) {
            report(name, iterations, cycles);
            return;
        }
        iterations *= 2;
    }
}

/* A child's exit status; fails if it ended by a signal. */
static int reap(word child)
{
    int status = 0;
    if (system_call(SYS_WAIT4, child, (word)&status, 0, 0, 0, 0) != child)
        fail("wait4 did not find the child");
    if (status & 0x7f)
        fail("a child was killed");
    return status >> 8 & 0xff;
}

static word fork_process(void)
{
    word child = call0(SYS_FORK);
    if ((long)child < 0)
        fail("fork was refused");
    return child;
}

static word parent;

static void get_parent(void)
{
    if (call0(SYS_GETPPID) != parent)
        fail("getppid gave another process");
}

static volatile word *pages;

static word sum(void)
{
    word total = 0;
    for (int page = 0; page < DATA_PAGES; page++)
        total += pages[page * (PAGE / sizeof(word))];
    return total;
}

static word before;

static void fork_and_wait(void)
{
    word child = fork_process();
    if (!child) {
        for (int page = 0; page < WRITTEN_PAGES; page++)
            pages[page * (PAGE / sizeof(word))] = 7000 + (word)page;
        leave((int)(sum() & 0xff));
    }
    /* 0, 1 and 4 were there. */
    word expected = before - 5 + 3 * 7000 + 3;
    if (reap(child) != (int)(expected & 0xff) || sum() != before)
        fail("the child's pages were not its own");
}

static char *const environment[] = { 0 };

/* Ends with the status of a program that was started and ended. */
static int start(char *const arguments[])
{
    word child = fork_process();
    if (!child) {
        call3(SYS_EXECVE, (word)arguments[0], (word)arguments, (word)environment);
        leave(127);
    }
    return reap(child);
}

static char *own_name;

static void fork_exec_and_wait(void)
{
    char *const arguments[] = { own_name, "leave", 0 };
    if (start(arguments))
        fail("the started program did not end well");
}

static char *shell;

static void run_shell(const char *text)
{
    char *const arguments[] = { shell, "sh", "-c", (char *)text, "sh", own_name, 0 };
    if (start(arguments))
        fail("the shell's loop did not end well");
}

static void shell_counts(void)
{
    run_shell("i=0; while [ $i -lt " COUNTED " ]; do i=$((i+1)); done; [ $i -eq " COUNTED " ]");
}

static void shell_starts(void)
{
    run_shell("i=0; while [ $i -lt " STARTED " ]; do \"$1\" leave || exit 1; i=$((i+1)); done; [ $i -eq " STARTED " ]");
}

static void all(word budget)
{
    parent = call0(SYS_GETPPID);
    measure("syscall", budget, get_parent);

    word mapped = system_call(SYS_MMAP, 0, PAGES * PAGE, 3, 0x22, (word)-1, 0);
    if (mapped > -4096UL)
        fail("no memory");
    pages = (volatile word *)mapped;
    for (word page = 0; page < PAGES; page++)
        pages[page * (PAGE / sizeof(word))] = page * page;
    before = sum();
    measure("forkwait", budget, fork_and_wait);
    measure("forkexecwait", budget, fork_exec_and_wait);
    /* Too long for a budget: each once, and reported by the turn. */
    word begun = ticks();
    shell_counts();
    report("shell_count", number_of(COUNTED), ticks() - begun);
    begun = ticks();
    shell_starts();
    report("shell_start", number_of(STARTED), ticks() - begun);
}

static word clock_ns(void)
{
    long time[2] = { 0, 0 };
    if (call3(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC_RAW, (word)time, 0))
        fail("the clock cannot be read");
    return (word)time[0] * 1000000000 + (word)time[1];
}

static void frequency(void)
{
    char number[24] = { [22] = '\n' };
    word begun = clock_ns(), start = ticks(), passed;
    while ((passed = clock_ns() - begun) < 200000000)
        ;
    print(1, decimal(number + 22, (ticks() - start) * 1000 / (passed / 1000)));
}

static int is(const char *text, const char *other)
{
    while (*text && *text == *other)
        text++, other++;
    return *text == *other;
}

/* `stack` is what the kernel left: argc, then argv. */
__attribute__((used)) static _Noreturn void begin(word *stack)
{
    word count = stack[0];
    char **arguments = (char **)(stack + 1);
    if (count == 2 && is(arguments[1], "leave"))
        leave(0);
    if (count == 2 && is(arguments[1], "frequency")) {
        frequency();
        leave(0);
    }
    if (count == 5 && is(arguments[1], "measure")) {
        own_name = arguments[0];
        shell = arguments[4];
        all(number_of(arguments[2]) * number_of(arguments[3]) / 1000);
        leave(0);
    }
    fail("expected: frequency, leave, or measure BUDGET_US TSC_KHZ SHELL");
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
