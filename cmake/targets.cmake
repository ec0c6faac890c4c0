# targets.cmake: what is built from the library: the command, the tests, the examples, the fuzz targets, what is installed.

# ---- the command: narrow.h is all that it sees of the library
file(GLOB CLI_SOURCES CONFIGURE_DEPENDS cli/*.c)
if(CLI_SOURCES)
    add_executable(narrow_cli ${CLI_SOURCES})
    set_target_properties(narrow_cli PROPERTIES OUTPUT_NAME narrow INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
    target_link_libraries(narrow_cli PRIVATE narrow m Threads::Threads)
endif()

if(NARROW_TESTS OR NARROW_FUZZ)
    # The whole inside of the library, and what the test programs share.
    get_target_property(NARROW_LIBRARIES narrow_objects INTERFACE_LINK_LIBRARIES)
    add_library(narrow_testing STATIC $<TARGET_OBJECTS:narrow_objects> tests/support/support.c tests/support/model.c)
    target_include_directories(narrow_testing PUBLIC tests src include)
    target_include_directories(narrow_testing SYSTEM PUBLIC ${ONNX_GEN})
    target_link_libraries(narrow_testing PUBLIC ${NARROW_LIBRARIES})
endif()

if(NARROW_TESTS)
    find_package(cmocka REQUIRED)

    # One program per file: tests/unit/test_arena.c → unit/test_arena. A program may use the public library instead.
    file(GLOB UNIT_TESTS CONFIGURE_DEPENDS tests/unit/test_*.c)
    foreach(source ${UNIT_TESTS})
        get_filename_component(name ${source} NAME_WE)
        add_executable(${name} ${source})
        set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/unit)
        target_link_libraries(${name} PRIVATE narrow_testing cmocka)
        target_compile_definitions(${name} PRIVATE NARROW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    endforeach()

    foreach(program check conformance golden)
        file(GLOB sources CONFIGURE_DEPENDS tests/${program}/*.c)
        if(sources)
            add_executable(${program} ${sources})
            target_link_libraries(${program} PRIVATE narrow_testing)
        endif()
    endforeach()
    add_executable(roundtrip tests/interop/roundtrip.c)
    target_link_libraries(roundtrip PRIVATE narrow_testing)

    # The C examples are compiled as a user would: with the public header and the shared library only.
    file(GLOB EXAMPLES CONFIGURE_DEPENDS examples/c_api/*.c)
    foreach(source ${EXAMPLES})
        get_filename_component(name ${source} NAME_WE)
        add_executable(example_${name} ${source})
        set_target_properties(example_${name} PROPERTIES OUTPUT_NAME ${name}
                              RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/examples)
        target_link_libraries(example_${name} PRIVATE narrow m)
    endforeach()
endif()

# ---- fuzzing: tests/fuzz/fuzz_import.c → replay_import (runs files; every build) and fuzz_import (libFuzzer)
if(NARROW_TESTS OR NARROW_FUZZ)
    file(GLOB FUZZ_TARGETS CONFIGURE_DEPENDS tests/fuzz/fuzz_*.c)
    foreach(source ${FUZZ_TARGETS})
        get_filename_component(name ${source} NAME_WE)
        string(REPLACE fuzz_ replay_ replay ${name})
        add_executable(${replay} ${source} tests/fuzz/replay.c)
        target_link_libraries(${replay} PRIVATE narrow_testing)
        if(NARROW_FUZZ)
            add_executable(${name} ${source})
            target_link_libraries(${name} PRIVATE narrow_testing)
            target_link_options(${name} PRIVATE -fsanitize=fuzzer)
        endif()
    endforeach()
endif()
if(NARROW_FUZZ)
    target_compile_options(narrow_objects PRIVATE -fsanitize=fuzzer-no-link)
    # clang takes a quarter of an hour to instrument an unrolled kernel; tests/check guards their memory instead.
    set_property(SOURCE ${KERNEL_FILES} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=all)
    target_link_options(narrow_objects INTERFACE -fsanitize=fuzzer-no-link)
    target_link_options(narrow PRIVATE -fsanitize=fuzzer-no-link)
    target_link_options(narrow_testing INTERFACE -fsanitize=fuzzer-no-link)
endif()

# ---- installation
install(TARGETS narrow EXPORT narrowTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/narrow DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
file(RELATIVE_PATH NARROW_PREFIX_FROM_PC /${CMAKE_INSTALL_LIBDIR}/pkgconfig /) # wherever it is installed to
configure_file(cmake/narrow.pc.in narrow.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/narrow.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
set(NARROW_PACKAGE ${CMAKE_INSTALL_LIBDIR}/cmake/narrow)
configure_package_config_file(cmake/narrowConfig.cmake.in narrowConfig.cmake INSTALL_DESTINATION ${NARROW_PACKAGE})
write_basic_package_version_file(narrowConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/narrowConfig.cmake ${CMAKE_BINARY_DIR}/narrowConfigVersion.cmake
        DESTINATION ${NARROW_PACKAGE})
install(EXPORT narrowTargets NAMESPACE narrow:: DESTINATION ${NARROW_PACKAGE})

if(TARGET narrow_cli)
    install(TARGETS narrow_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    # The manual and the completions are printed by the command itself, from its one table of options.
    function(print_from_command output)
        add_custom_command(OUTPUT ${output} COMMAND narrow_cli ${ARGN} > ${output} DEPENDS narrow_cli VERBATIM)
    endfunction()
    print_from_command(narrow.1 help --man)
    print_from_command(narrow.bash help --completion bash)
    print_from_command(_narrow help --completion zsh)
    print_from_command(narrow.fish help --completion fish)
    add_custom_target(manual ALL DEPENDS narrow.1 narrow.bash _narrow narrow.fish)
    install(FILES ${CMAKE_BINARY_DIR}/narrow.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    install(FILES ${CMAKE_BINARY_DIR}/narrow.bash RENAME narrow
            DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
    install(FILES ${CMAKE_BINARY_DIR}/_narrow DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
    install(FILES ${CMAKE_BINARY_DIR}/narrow.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
endif()
